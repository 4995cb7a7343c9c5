"""What the servicer asks of whatever runs trainings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, Protocol


@dataclass(frozen=True)
class Training:
    """A training that somebody asks for.

    Attributes:
        job_id: 32 hexadecimal digits; the same id again goes on with the same training.
        recipe: name of the recipe.
        settings: JSON object of settings by name.
        dataset: prefix of the data set's files in the object store.
    """

    job_id: str
    recipe: str
    settings: str
    dataset: str


@dataclass(frozen=True)
class Recipe:
    """A recipe and the JSON Schema of its settings, as text."""

    name: str
    summary: str
    settings_schema: str


@dataclass(frozen=True)
class TrainingNote:
    """Something worth a line."""

    message: str


@dataclass(frozen=True)
class TrainingStep:
    """A step was taken; ``left_s`` estimates the seconds until the last one."""

    step: int
    num_steps: int
    epoch: int
    loss: float
    rates: Mapping[str, float]
    left_s: float


@dataclass(frozen=True)
class TrainingEpoch:
    """An epoch has ended with ``step``; ``loss`` is its mean."""

    epoch: int
    step: int
    loss: float
    validation_loss: float | None


@dataclass(frozen=True)
class TrainingCheckpoint:
    """The training can go on from ``step``."""

    step: int


@dataclass(frozen=True)
class TrainingSample:
    """A picture drawn with what is learned so far; ``png`` is the file."""

    step: int
    name: str
    png: bytes


@dataclass(frozen=True)
class TrainingResult:
    """The end of a training.

    Attributes:
        adapter: name to draw with it by; empty where the result is no such adapter, or was not published.
        measures: JSON object of what the recipe measured.
    """

    adapter: str
    measures: str


TrainingEvent = TrainingNote | TrainingStep | TrainingEpoch | TrainingCheckpoint | TrainingSample | TrainingResult


class TrainerEngine(Protocol):
    """Runs trainings. All calls block; they come from several threads."""

    def load(self) -> None: ...

    def close(self) -> None: ...

    def recipes(self) -> Sequence[Recipe]: ...

    def check(self, recipe: str, settings: str) -> str:
        """What the result will be published as, such as "adapters/seal"; "" where it will not be.

        Raises:
            NotFound, InvalidParameter: as ``train``.
        """
        ...

    def train(self, training: Training, cancelled: Event) -> Iterator[TrainingEvent]:
        """Yields what happens, the result last; ``cancelled`` or closing the iterator stops it at a checkpoint."""
        ...

    def forget(self, job_id: str) -> None:
        """Drops data and checkpoints of a job that does not run.

        Raises:
            Conflict: it runs.
        """
        ...


def as_fields(event: TrainingEvent) -> dict[str, Any]:
    """The fields of an event that have a value."""
    return {name: value for name, value in vars(event).items() if value is not None}
