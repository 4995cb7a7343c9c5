"""What pictures can be drawn with besides a model: recipes that teach it, adapters, and LoRA files in and out."""

import json
import secrets
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.intake import file_part, form_body, text_fields, upload_form
from gateway.parts import Gateway, Parts
from gateway.problems import invalid_parameter, responses
from narrative.errors import AdapterNotFound
from narrative.registry import ADAPTERS, Entry, Registry
from narrative.v1 import diffusion_pb2

router = APIRouter(prefix="/v1", tags=["fine-tuning"])

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
AdapterName = Annotated[str, Path(pattern=_NAME, description="Name of an adapter.")]


class Recipe(BaseModel):
    """A way to train."""

    name: str
    summary: str
    settings: dict[str, Any] = Field(description="JSON Schema of the settings; paths are paths inside the data set.")


class RecipeList(BaseModel):
    """All recipes."""

    data: list[Recipe]


class Adapter(BaseModel):
    """An adapter that pictures can be drawn with."""

    name: str = Field(description="For `adapters` of a narrative or a picture.")
    created_at: str = Field(description="UTC, RFC 3339.")
    size_bytes: int
    sha256: str = Field(description="Of its weights in diffusers' form.")
    training: dict[str, Any] = Field(
        description="What is known of it: base, rank, alpha, trigger_word, metrics, data_digest, licence and more."
    )
    links: dict[str, str] = Field(description="Paths of its weights, by form.")


class AdapterList(BaseModel):
    """All adapters, by name."""

    data: list[Adapter]


class AdapterToPublish(BaseModel):
    """What is said of a LoRA file that was made elsewhere."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=_NAME, description="Name to draw with.")
    base: str = Field("", max_length=200, description="Model it is for; found by its shapes if left out.")
    alpha: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Of a file in peft's own form, which does not hold it."
    )
    trigger_word: str = Field("", max_length=1000, description="What to write into prompts.")
    licence: str = Field("", max_length=1000, description="Licence of the adapter.")


def _form_schema() -> dict[str, Any]:
    schema = AdapterToPublish.model_json_schema()
    about = "LoRA of Stable Diffusion or SDXL, safetensors, in any usual form."
    file = {"type": "string", "format": "binary", "description": about}
    return schema | {"required": ["file", *schema["required"]], "properties": {"file": file, **schema["properties"]}}


@router.get("/recipes", responses=responses(401, 503))
async def recipes(gateway: Parts) -> RecipeList:
    """Lists the recipes and what may be set."""
    found = await gateway.trainer.recipes()
    return RecipeList(
        data=[
            Recipe(name=recipe.name, summary=recipe.summary, settings=json.loads(recipe.settings_schema))
            for recipe in found
        ]
    )


@router.get("/adapters", responses=responses(401, 503))
async def adapters(gateway: Parts) -> AdapterList:
    """Lists the adapters."""
    return AdapterList(data=[shown(entry) for entry in await _registry(gateway).entries()])


@router.post(
    "/adapters",
    status_code=201,
    responses=responses(401, 404, 409, 413, 422, 503),
    openapi_extra=form_body(_form_schema()),
)
async def publish(request: Request, response: Response, gateway: Parts) -> Adapter:
    """Publishes a LoRA file that was made elsewhere, in kohya's, diffusers' or peft's form.

    It must fit, by the names and shapes of its layers, a model that pictures are drawn with here. Pickles are refused.
    """
    # Where what is cut off on its way goes by itself.
    key = f"uploads/{secrets.token_hex(16)}"
    async with upload_form(request, gateway.settings.max_adapter_bytes) as form:
        try:
            asked = AdapterToPublish.model_validate(text_fields(form, ("file",)))
        except ValidationError as error:
            raise invalid_parameter(error) from error
        file = file_part(form, gateway.settings.max_adapter_bytes)
        try:
            await gateway.objects.put(f"{key}/adapter", file.file)
            await gateway.services.import_adapter(
                diffusion_pb2.ImportAdapterRequest(object=f"{key}/adapter", **asked.model_dump())
            )
        finally:
            await gateway.objects.delete_folder(key)
    response.headers["Location"] = f"/v1/adapters/{asked.name}"
    return shown(await _registry(gateway).entry(asked.name))


@router.get("/adapters/{name}", responses=responses(401, 404, 422, 503))
async def show(name: AdapterName, gateway: Parts) -> Adapter:
    """Shows an adapter."""
    return shown(await _registry(gateway).entry(name))


@router.get(
    "/adapters/{name}/weights",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {}}}, **responses(401, 404, 422, 503)},
)
async def weights(
    name: AdapterName,
    gateway: Parts,
    format_: Annotated[
        Literal["peft", "kohya"],
        Query(alias="format", description="peft: as diffusers and peft load it; kohya: for most other tools."),
    ] = "peft",
) -> StreamingResponse:
    """An adapter's weights as a safetensors file."""
    entry = await _registry(gateway).entry(name)
    key = _registry(gateway).key(entry, entry.files[0].name)
    if format_ == "kohya":
        key = await gateway.services.kohya_adapter(name)
    size = await gateway.objects.size(key)
    if size is None:
        raise AdapterNotFound(f"adapter {name!r} was replaced or removed meanwhile", field="name")
    headers = {"Content-Disposition": f'attachment; filename="{name}.safetensors"', "Content-Length": str(size)}
    return StreamingResponse(gateway.objects.stream(key), media_type="application/octet-stream", headers=headers)


@router.delete("/adapters/{name}", status_code=204, responses=responses(401, 404, 422, 503))
async def delete(name: AdapterName, gateway: Parts) -> None:
    """Removes an adapter."""
    await _registry(gateway).delete(name)


def shown(entry: Entry) -> Adapter:
    """An adapter as callers see it."""
    path = f"/v1/adapters/{entry.name}/weights"
    return Adapter(
        name=entry.name,
        created_at=entry.created_at,
        size_bytes=entry.size_bytes,
        sha256=entry.files[0].sha256,
        training=dict(entry.description),
        links={"peft": path, "kohya": f"{path}?format=kohya"},
    )


def _registry(gateway: Gateway) -> Registry:
    return Registry(gateway.objects, ADAPTERS, AdapterNotFound)
