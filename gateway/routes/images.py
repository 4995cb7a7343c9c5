"""Pictures with OpenAI's request and response shapes; fields of our own besides."""

import base64
import re
import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Path
from fastapi.responses import Response
from pydantic import BaseModel, Field, ValidationError, model_validator

from gateway.admission import check_options
from gateway.clients import Drawn
from gateway.options import MAX_PROMPT_CHARS, DrawingOptions, NarrativeOptions
from gateway.parts import Gateway, Parts
from gateway.problems import invalid_parameter, responses
from gateway.speakers import drawing_request
from narrative.errors import InvalidParameter, ModelOutputInvalid, NotFound

router = APIRouter(prefix="/v1/images", tags=["openai"])
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


class PictureRequest(DrawingOptions):
    """OpenAI's model, n, size, response_format and user; the rest is ours."""

    n: int = Field(1, ge=1, le=8, description="How many pictures.")
    size: str = Field("", max_length=16, description='"WIDTHxHEIGHT" in pixels; "" or "auto" for the default.')
    response_format: Literal["b64_json", "url"] = Field(
        "b64_json", description="The PNG in the answer, or a path of this gateway where it is kept for a day."
    )
    user: str = Field("", max_length=200, description="Accepted for OpenAI's clients; not used and not kept.")

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if self.size and (self.width or self.height):
            raise ValueError("give size, or width and height, not both")
        return self


class GenerationRequest(PictureRequest):
    """Pictures of a prompt."""

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT_CHARS, description="What to draw, in English.")


class Picture(BaseModel):
    """One picture."""

    b64_json: str | None = Field(None, description="PNG file in base64.")
    url: str | None = Field(None, description="Path of the PNG file on this gateway.")
    seed: int
    width: int
    height: int


class Generation(BaseModel):
    """The pictures of one request, in order."""

    created: int = Field(description="Seconds since 1970, UTC.")
    data: list[Picture]


@router.post("/generations", response_model_exclude_none=True, responses=responses(401, 404, 413, 422, 429, 503))
async def generations(asked: GenerationRequest, gateway: Parts) -> Generation:
    """Draws pictures of a prompt; answers when all are done."""
    options = drawing_options(asked)
    await check_options(gateway, NarrativeOptions(model=options.model))
    request = drawing_request(options, asked.prompt, asked.seed, asked.n)
    return await answer(gateway, gateway.services.generate(request), asked)


async def answer(gateway: Gateway, events: AsyncIterator[object], asked: PictureRequest) -> Generation:
    """The answer to a request for pictures, made of what diffusion sends.

    Raises:
        ModelOutputInvalid: pictures are missing.
    """
    drawn = [item async for item in events if isinstance(item, Drawn)]
    if len(drawn) != asked.n:
        raise ModelOutputInvalid(f"diffusion sent {len(drawn)} of {asked.n} pictures")
    drawn.sort(key=lambda item: item.image_index)
    pictures = [Picture(seed=item.seed, width=item.width, height=item.height) for item in drawn]
    for picture, item in zip(pictures, drawn, strict=True):
        if asked.response_format == "url":
            name = secrets.token_hex(16)
            await gateway.objects.put(f"generated/{name}.png", item.png)
            picture.url = f"/v1/images/{name}"
        else:
            picture.b64_json = base64.b64encode(item.png).decode("ascii")
    return Generation(created=int(time.time()), data=pictures)


@router.get(
    "/{name}", response_class=Response, responses={200: {"content": {"image/png": {}}}, **responses(401, 404, 422)}
)
async def generated(name: Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")], gateway: Parts) -> Response:
    """A picture that was answered by URL."""
    try:
        png = await gateway.objects.get(f"generated/{name}.png")
    except NotFound as error:
        raise NotFound(f"there is no picture {name}, or no longer") from error
    return Response(png, media_type="image/png")


def drawing_options(asked: PictureRequest) -> DrawingOptions:
    """The drawing options with OpenAI's size taken apart, checked like our own."""
    fields = asked.model_dump(include=set(DrawingOptions.model_fields))
    if asked.size not in ("", "auto"):
        size = _SIZE.fullmatch(asked.size)
        if size is None:
            raise InvalidParameter(f'size: {asked.size!r} is not "WIDTHxHEIGHT", for example "256x256"', field="size")
        fields |= {"width": int(size[1]), "height": int(size[2])}
    try:
        return DrawingOptions.model_validate(fields)
    except ValidationError as error:
        raise invalid_parameter(error, "size") from error
