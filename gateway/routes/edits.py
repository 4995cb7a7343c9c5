"""Edits of pictures by instruction, with OpenAI's request and response shapes; fields of our own besides."""

import json
import re
from typing import Annotated, Any, Self

from fastapi import APIRouter, Request
from pydantic import Field, ValidationError, model_validator
from starlette.datastructures import FormData, UploadFile

from gateway.intake import form_body, text_fields, upload_form
from gateway.options import MAX_PROMPT_CHARS
from gateway.parts import Gateway, Parts
from gateway.problems import invalid_parameter, responses
from gateway.routes.images import Generation, PictureRequest, answer, drawing_options
from gateway.speakers import drawing_request
from gateway.store import image_key
from narrative.errors import InvalidInput, InvalidParameter, NotFound, PayloadTooLarge
from narrative.v1 import diffusion_pb2

router = APIRouter(prefix="/v1/images", tags=["openai"])
MAX_FRAMES = 64
_IMAGE_PARTS = ("image", "image[]")
_OF_STORY = re.compile(r"/v1/narratives/([0-9a-f]{32})/images/(\d{1,6})")
_GENERATED = re.compile(r"/v1/images/([0-9a-f]{32})")


class EditRequest(PictureRequest):
    """A picture and what to do with it."""

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT_CHARS, description="The instruction, in English.")
    image_url: str = Field(
        "",
        max_length=200,
        description="Instead of image: path of a picture of this gateway, /v1/narratives/{id}/images/{index} of a "
        "story or /v1/images/{name} of a generation.",
    )
    image_guidance_scale: Annotated[float, Field(ge=1.0, le=50.0, allow_inf_nan=False)] | None = Field(
        None, description="How closely to keep to the picture; the model's default where it is not given."
    )

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        if self.image_url and not (_OF_STORY.fullmatch(self.image_url) or _GENERATED.fullmatch(self.image_url)):
            raise ValueError("image_url is /v1/narratives/{id}/images/{index} or /v1/images/{name}, as answers give it")
        return self


def _form_schema() -> dict[str, Any]:
    schema = EditRequest.model_json_schema()
    fields: dict[str, Any] = schema["properties"]
    adapters = {"type": "string", "contentMediaType": "application/json", "description": "JSON list of adapters."}
    picture = {"type": "string", "format": "binary"}
    about = f"PNG, JPEG or WebP; for a model of videos the frames in order, each a part, at most {MAX_FRAMES}."
    image = {"type": "array", "items": picture, "maxItems": MAX_FRAMES, "description": about}
    return {
        "type": "object",
        "required": schema["required"],
        "properties": {**fields, "adapters": adapters, "image": image},
    }


@router.post(
    "/edits",
    response_model_exclude_none=True,
    responses=responses(401, 404, 413, 422, 429, 503),
    openapi_extra=form_body(_form_schema()),
)
async def edits(request: Request, gateway: Parts) -> Generation:
    """Edits a picture, or the frames of a video, by an instruction; answers when all results are done.

    It takes a model for editing, such as the pix2pix recipe trains. A larger picture than the model goes to is made
    smaller, and sides become multiples of 8.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise InvalidInput("send the request as multipart/form-data, the picture in a part named image")
    async with upload_form(request, gateway.settings.max_image_bytes, MAX_FRAMES) as form:
        asked = _asked(form)
        pictures = await _pictures(form, gateway, asked)
    options = drawing_options(asked)
    message = diffusion_pb2.EditOptions(generation=drawing_request(options, asked.prompt, asked.seed, asked.n))
    if asked.image_guidance_scale is not None:
        message.image_guidance_scale = asked.image_guidance_scale
    return await answer(gateway, gateway.services.edit(message, pictures), asked)


def _asked(form: FormData) -> EditRequest:
    """The text parts, checked.

    Raises:
        InvalidParameter: an unknown part, or a value that is not accepted.
    """
    if "mask" in form:
        raise InvalidParameter("mask: edits are by instruction and change the whole picture", field="mask")
    fields: dict[str, Any] = dict(text_fields(form, _IMAGE_PARTS))
    if "adapters" in fields:
        fields["adapters"] = _from_json("adapters", fields["adapters"])
    try:
        return EditRequest.model_validate(fields)
    except ValidationError as error:
        raise invalid_parameter(error) from error


def _from_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"{name} is no JSON: {error}", field=name) from error


async def _pictures(form: FormData, gateway: Gateway, asked: EditRequest) -> list[bytes]:
    """The pictures to edit, as files.

    Raises:
        InvalidParameter: there are none, or they come twice.
        PayloadTooLarge: together they are larger than the limit.
        NotFound: the gateway has no such picture.
    """
    parts = [part for name in _IMAGE_PARTS for part in form.getlist(name)]
    if bool(parts) == bool(asked.image_url):
        raise InvalidParameter(
            "send the picture as a file part named image, or its image_url; one of both", field="image"
        )
    if asked.image_url:
        return [await _kept(gateway, asked.image_url)]
    uploads = [part for part in parts if isinstance(part, UploadFile)]
    if len(uploads) < len(parts):
        raise InvalidParameter("image is a file part; a picture of this gateway is named by image_url", field="image")
    most = gateway.settings.max_image_bytes
    if sum(upload.size or 0 for upload in uploads) > most:
        raise PayloadTooLarge(f"the picture is larger than {most} bytes", field="image")
    return [await upload.read() for upload in uploads]


async def _kept(gateway: Gateway, url: str) -> bytes:
    of_story, generated = _OF_STORY.fullmatch(url), _GENERATED.fullmatch(url)
    if of_story is not None:
        await gateway.jobs.get(of_story[1])
        key = image_key(of_story[1], int(of_story[2]))
    else:
        assert generated is not None, "the request was checked"
        key = f"generated/{generated[1]}.png"
    try:
        return await gateway.objects.get(key)
    except NotFound as error:
        raise NotFound(f"there is no picture {url}, or no longer", field="image_url") from error
