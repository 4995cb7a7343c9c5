"""Which pictures are drawn next, and with which others. Holds no thread and no clock: both are handed in."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from services.diffusion.plan import DrawSettings


@dataclass(eq=False)
class Job:
    """One picture in the queue, as far as the order is concerned."""

    settings: DrawSettings
    arrived_s: float = field(default=0.0, compare=False)


JobT = TypeVar("JobT", bound=Job)


class BatchPlanner(Generic[JobT]):
    """Groups waiting jobs of equal settings.

    The oldest job goes first, except that jobs whose model and adapters are active already may overtake it for
    ``max_same_adapters`` batches in a row: switching costs time, and nobody waits for ever.

    Args:
        max_batch_size: jobs in a batch.
        window_s: seconds that an incomplete batch waits for more from the arrival of its first job.
        max_same_adapters: batches in a row that may overtake.
    """

    def __init__(self, max_batch_size: int, window_s: float, max_same_adapters: int) -> None:
        self._max_batch_size = max_batch_size
        self._window_s = window_s
        self._max_same_adapters = max_same_adapters
        self._waiting: list[JobT] = []
        self._active: tuple[object, ...] | None = None
        self._overtakes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, jobs: Iterable[JobT]) -> None:
        """Appends jobs in the order of their arrival."""
        self._waiting.extend(jobs)

    def discard(self, jobs: Iterable[JobT]) -> None:
        """Takes jobs out that nobody waits for any longer; those that are not there are ignored."""
        gone = set(map(id, jobs))
        self._waiting = [job for job in self._waiting if id(job) not in gone]

    def take_all(self) -> list[JobT]:
        """Empties the queue."""
        taken, self._waiting = self._waiting, []
        return taken

    def next_batch(self, now_s: float) -> tuple[list[JobT], float | None]:
        """The batch to draw now, or seconds until there may be one.

        Returns:
            Jobs of equal settings, taken out of the queue, and None; or no jobs and the seconds to wait for more
            (None: until a job is added).
        """
        if not self._waiting:
            return [], None
        first = self._choose()
        group = [job for job in self._waiting if job.settings == first.settings][: self._max_batch_size]
        wait_s = first.arrived_s + self._window_s - now_s
        if len(group) < self._max_batch_size and wait_s > 0:
            return [], wait_s
        overtaken = first is not self._waiting[0]
        self._overtakes = self._overtakes + 1 if overtaken else 0
        self._active = _adapters_of(first)
        self.discard(group)
        return group, None

    def _choose(self) -> JobT:
        oldest = self._waiting[0]
        if self._overtakes >= self._max_same_adapters:
            return oldest
        return next((job for job in self._waiting if _adapters_of(job) == self._active), oldest)


def _adapters_of(job: Job) -> tuple[object, ...]:
    return (job.settings.model, job.settings.adapters)
