"""Models of all services in one list."""

import asyncio

from fastapi import APIRouter
from pydantic import BaseModel, Field

from gateway.clients import FULL_NAMES
from gateway.parts import Gateway, Parts
from gateway.problems import responses
from narrative.errors import NarrativeError
from narrative.v1 import common_pb2

router = APIRouter(prefix="/v1/models", tags=["models"])


class Model(BaseModel):
    """One model; the first four fields are OpenAI's."""

    id: str
    object: str = "model"
    created: int = Field(0, description="Always 0: weights have no date that means anything here.")
    owned_by: str = Field(description="Service that runs it.")
    task: str = Field(description="What it is for, for example text_to_image.")
    engine: str
    licence: str
    languages: list[str] = Field(description="ISO 639-1 codes; empty for no limits.")
    is_default: bool


class ModelList(BaseModel):
    """All models that can be asked for now."""

    object: str = "list"
    data: list[Model]
    unavailable: dict[str, str] = Field(description="Services that did not answer, each with the reason.")


@router.get("", responses=responses(401))
async def models(gateway: Parts) -> ModelList:
    """Lists the models of all services; those of a service that is down are left out, and its name is given."""
    answers = await asyncio.gather(*(_models(gateway, service) for service in FULL_NAMES))
    found = ModelList(data=[], unavailable={})
    for service, answer in zip(FULL_NAMES, answers, strict=True):
        if isinstance(answer, str):
            found.unavailable[service] = answer
        else:
            found.data += [_shown(service, model) for model in answer]
    return found


async def _models(gateway: Gateway, service: str) -> list[common_pb2.Model] | str:
    try:
        return await gateway.services.models(service)
    except NarrativeError as error:
        return error.message


def _shown(service: str, model: common_pb2.Model) -> Model:
    return Model(
        id=model.id,
        owned_by=service,
        task=common_pb2.Task.Name(model.task).removeprefix("TASK_").lower(),
        engine=model.engine,
        licence=model.licence,
        languages=list(model.languages),
        is_default=model.is_default,
    )
