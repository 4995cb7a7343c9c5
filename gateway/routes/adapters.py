"""What can be taught, and what has been: recipes and adapters."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from gateway.parts import Parts
from gateway.problems import responses

router = APIRouter(prefix="/v1", tags=["fine-tuning"])


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
    size_bytes: int
    training: dict[str, Any] | None = Field(
        description="What it was made of: base, rank, trigger_word, data_digest, licence; null where that is not known."
    )


class AdapterList(BaseModel):
    """All adapters, by name."""

    data: list[Adapter]


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
    found = await gateway.trainer.adapters()
    return AdapterList(
        data=[
            Adapter(
                name=adapter.name,
                size_bytes=adapter.size_bytes,
                training=json.loads(adapter.description) if adapter.description else None,
            )
            for adapter in found
        ]
    )


@router.delete("/adapters/{name}", status_code=204, responses=responses(401, 404, 422, 503))
async def delete(name: Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")], gateway: Parts) -> None:
    """Removes an adapter."""
    await gateway.trainer.delete_adapter(name)
