"""The parts of a running gateway, as routes see them."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request

from gateway.clients import Services
from gateway.database import Database
from gateway.datasets import Datasets
from gateway.events import EventLog
from gateway.fine_tunes import FineTuner, FineTunes
from gateway.jobs import Jobs
from gateway.retention import Retention
from gateway.settings import GatewaySettings
from gateway.trainer import Trainer
from gateway.workflow import Narrator
from narrative.objects import Objects


@dataclass(frozen=True)
class Gateway:
    """Everything a route may need."""

    settings: GatewaySettings
    database: Database
    events: EventLog
    jobs: Jobs
    objects: Objects
    services: Services
    narrator: Narrator
    datasets: Datasets
    trainer: Trainer
    fine_tunes: FineTunes
    fine_tuner: FineTuner
    retention: Retention


async def gateway_of(request: Request) -> Gateway:
    """The gateway behind a request."""
    gateway: Gateway = request.app.state.gateway
    return gateway


Parts = Annotated[Gateway, Depends(gateway_of)]
# Hexadecimal digits only, so that no id leads out of its folder.
NarrativeId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="Id of a narrative.")]
