"""What a training in a pod of its own says to the service: events as JSON lines, pictures and the result as objects."""

import json
from dataclasses import asdict
from typing import Any

from services.trainer.engine import (
    Training,
    TrainingCheckpoint,
    TrainingEpoch,
    TrainingEvent,
    TrainingNote,
    TrainingSample,
    TrainingStep,
)

# The variable in which a pod finds its training.
VARIABLE = "NARRATIVE_TRAINING"
# Written for a training that ended: an event of this kind, or an error.
RESULT, ERROR = "result", "error"

_KINDS: dict[str, type[TrainingEvent]] = {
    "note": TrainingNote,
    "step": TrainingStep,
    "epoch": TrainingEpoch,
    "checkpoint": TrainingCheckpoint,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def folder_key(job_id: str) -> str:
    """Where in the object store a pod leaves what the service reads."""
    return f"fine-tunes/{job_id}/job"


def result_key(job_id: str) -> str:
    """Where in the object store the result of a training lies until the service has read it."""
    return f"{folder_key(job_id)}/result.json"


def sample_key(job_id: str, step: int, name: str) -> str:
    """Where in the object store a picture of a training lies until the service has read it."""
    return f"{folder_key(job_id)}/{step}-{name}.png"


def order(training: Training) -> str:
    """A training as the text of ``VARIABLE``."""
    return json.dumps(asdict(training))


def read_order(text: str) -> Training:
    """The inverse of ``order``."""
    return Training(**json.loads(text))


def line(event: TrainingEvent) -> str:
    """A line for the log; of a picture it says only that it is in the object store."""
    if isinstance(event, TrainingSample):
        return json.dumps({"event": "sample", "step": event.step, "name": event.name})
    return json.dumps({"event": _NAMES[type(event)], **asdict(event)})


def read_line(text: str) -> TrainingEvent | tuple[int, str] | None:
    """What a line of the log says: an event, step and name of a picture, or None where it is something else."""
    try:
        facts: dict[str, Any] = json.loads(text)
        kind = facts.pop("event")
        if kind == "sample":
            return int(facts["step"]), str(facts["name"])
        return _KINDS[kind](**facts)
    except (ValueError, AttributeError, KeyError, TypeError):
        return None
