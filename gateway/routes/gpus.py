"""Devices, and whose weights are in their memory."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from gateway.parts import Parts
from gateway.problems import responses
from narrative.v1 import residency_pb2

router = APIRouter(prefix="/v1/gpus", tags=["gpus"])


class ResidentModel(BaseModel):
    """A model that some process owns."""

    model: str
    owner: str = Field(description="Process that owns it, for example diffusion.")
    num_bytes: int = Field(description="What it needs on a device while it works, in bytes.")
    leases: int = Field(description="Calls that work with it now; 0 where it is idle.")
    is_pinned: bool = Field(description="Never leaves to make room.")
    is_leaving: bool = Field(description="Has been asked to leave.")
    idle_s: float = Field(description="Seconds since it was last used; 0 where it is in use.")


class Device(BaseModel):
    """A GPU, or a declared device."""

    id: str
    name: str
    total_bytes: int
    budget_bytes: int = Field(description="What models may fill.")
    booked_bytes: int = Field(description="What they do fill.")
    models: list[ResidentModel]


class Waiting(BaseModel):
    """A call that waits for room."""

    model: str
    owner: str
    num_bytes: int
    waited_s: float


class Gpus(BaseModel):
    """All devices of the machine."""

    devices: list[Device]
    away: list[ResidentModel] = Field(description="Models that are on no device now.")
    waiting: list[Waiting] = Field(description="Who waits for room, the next one first.")


@router.get("", responses=responses(401, 404, 503))
async def gpus(gateway: Parts) -> Gpus:
    """Shows the memory of the devices: which models are there, who works with them and who waits."""
    return _shown(await gateway.services.residency())


def _shown(state: residency_pb2.GetStateResponse) -> Gpus:
    return Gpus(
        devices=[
            Device(
                id=device.id,
                name=device.name,
                total_bytes=device.total_bytes,
                budget_bytes=device.budget_bytes,
                booked_bytes=device.booked_bytes,
                models=[_model(model) for model in state.models if model.device == device.id],
            )
            for device in state.devices
        ],
        away=[_model(model) for model in state.models if not model.device],
        waiting=[
            Waiting(model=one.model, owner=one.owner, num_bytes=one.num_bytes, waited_s=one.waited_s)
            for one in state.waiting
        ],
    )


def _model(model: residency_pb2.ResidentModel) -> ResidentModel:
    return ResidentModel(
        model=model.model,
        owner=model.owner,
        num_bytes=model.num_bytes,
        leases=model.leases,
        is_pinned=model.is_pinned,
        is_leaving=model.is_leaving,
        idle_s=model.idle_s,
    )
