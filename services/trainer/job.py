"""``python -m services.trainer.job``: one training in a pod of its own, as the service's Kubernetes engine starts it.

Several nodes run the same training together: the first does what is done once, the others wait for it and join in.
Exit status: 0 trained, 1 something was wrong with it (trying again is no use), 143 stopped with a checkpoint saved.
"""

import asyncio
import json
import signal
import sys
import threading

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from narrative.errors import Cancelled, NarrativeError
from narrative.objects import Objects
from narrative.settings import read_settings
from services.trainer import job_messages
from services.trainer.engine import Training, TrainingEvent, TrainingResult, TrainingSample
from services.trainer.engine_process import COMMAND, SETTINGS_NAME, ProcessEngine, run_along
from services.trainer.settings import TrainerSettings

STOPPED = 143


class JobSettings(BaseSettings):
    """What Kubernetes and the service tell a pod of a training."""

    model_config = SettingsConfigDict(extra="ignore")

    training: str = Field(validation_alias=job_messages.VARIABLE, description="The training, as JSON.")
    node: int = Field(0, validation_alias="JOB_COMPLETION_INDEX", ge=0, description="Which of its nodes this is.")


def main() -> int:
    """Trains; returns the exit status."""
    settings, told = read_settings(TrainerSettings), read_settings(JobSettings)
    training = job_messages.read_order(told.training)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    command = launcher(settings, told.node, f"training-{training.job_id}")
    if told.node:
        return run_along(settings.trainings_folder / training.job_id / SETTINGS_NAME, command, training.recipe, stop)
    return _train(ProcessEngine(settings, command), Objects(settings.objects_url), training, stop)


def launcher(settings: TrainerSettings, node: int, job: str) -> tuple[str, ...]:
    """The command that trains with all processes of this node; accelerate finds the others by what torchrun sets.

    Args:
        job: name of the Job, which is the host name of its nodes too, with their numbers.
    """
    if settings.job_nodes == settings.job_processes == 1:
        return COMMAND
    python, *isolated = COMMAND[:2]
    meeting_point = "localhost" if settings.job_nodes == 1 else f"{job}-0.{settings.job_subdomain}"
    return (
        *(python, *isolated, "-m", "torch.distributed.run"),
        *("--nproc-per-node", str(settings.job_processes), "--nnodes", str(settings.job_nodes)),
        *("--node-rank", str(node), "--master-addr", meeting_point, "--master-port", "29500"),
        *COMMAND[2:],
    )


def _train(engine: ProcessEngine, objects: Objects, training: Training, stop: threading.Event) -> int:
    engine.load()
    try:
        for event in engine.train(training, stop):
            _tell(objects, training.job_id, event)
    except Cancelled:
        return STOPPED
    except NarrativeError as error:
        answer = {
            "kind": job_messages.ERROR,
            "type": type(error).__name__,
            "message": error.message,
            "field": error.field,
        }
        _put(objects, job_messages.result_key(training.job_id), json.dumps(answer).encode())
        return 1
    return 0


def _tell(objects: Objects, job_id: str, event: TrainingEvent) -> None:
    if isinstance(event, TrainingResult):
        answer = {"kind": job_messages.RESULT, "adapter": event.adapter, "measures": event.measures}
        _put(objects, job_messages.result_key(job_id), json.dumps(answer).encode())
        return
    if isinstance(event, TrainingSample):
        _put(objects, job_messages.sample_key(job_id, event.step, event.name), event.png)
    sys.stdout.write(f"{job_messages.line(event)}\n")
    sys.stdout.flush()


def _put(objects: Objects, key: str, data: bytes) -> None:
    asyncio.run(objects.put(key, data))


if __name__ == "__main__":
    raise SystemExit(main())
