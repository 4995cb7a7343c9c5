"""The one thread that draws: takes batches from the planner, and tells every request how far it is."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from narrative.errors import Cancelled, NarrativeError, QueueFull, ServiceUnavailable
from narrative.runtime.metrics import BATCH_SIZE, QUEUE_DEPTH, RUNNING
from services.diffusion.batches import BatchPlanner, Job
from services.diffusion.engine import Emit, Finished, Image, Step
from services.diffusion.plan import Picture
from services.diffusion.settings import DiffusionSettings

SERVICE = "diffusion"
log = structlog.get_logger()


@dataclass(frozen=True)
class Drawn:
    """A finished picture file and the seconds the work on it took."""

    png: bytes
    duration_s: float


class Batch(Protocol):
    """What a drawer sees of the batch it draws.

    Attributes:
        abandoned: set once nobody waits for any of its pictures.
    """

    abandoned: threading.Event

    @property
    def pictures(self) -> Sequence[Picture]:
        """Pictures of equal settings."""

    def wanted(self, position: int) -> bool:
        """Whether somebody still waits for this picture; to be asked before every step."""

    def step_done(self, step: int) -> None:
        """To be called when a denoising step (from 1) is done."""

    def finished(self, position: int, drawn: Drawn) -> None:
        """To be called when a picture is finished."""


Draw = Callable[[Batch], None]


@dataclass(eq=False)
class PictureJob(Job):
    """A picture in the queue and the request it belongs to."""

    picture: Picture = field(kw_only=True)
    order: "Order" = field(kw_only=True)


class Order:
    """The pictures of one request on their way through the queue; a ``Ticket``."""

    def __init__(self, pictures: Sequence[Picture], emit: Emit, forget: Callable[["Order"], None]) -> None:
        self.jobs = [PictureJob(picture.settings, picture=picture, order=self) for picture in pictures]
        self.emit = emit
        self.cancelled = threading.Event()
        self._forget = forget
        self._missing = len(pictures)
        self._lock = threading.Lock()

    def cancel(self) -> None:
        self.cancelled.set()
        self._forget(self)

    def picture_done(self) -> None:
        with self._lock:
            self._missing -= 1
            last = self._missing == 0
        if last:
            self.finish(None)

    def finish(self, error: Exception | None) -> None:
        """Emits ``Finished`` once; the pictures still missing are not drawn any more."""
        with self._lock:
            if self._missing < 0:
                return
            self._missing = -1
        self.cancelled.set()
        self.emit(Finished(error))


class _RunningBatch:
    def __init__(self, jobs: Sequence[PictureJob] = ()) -> None:
        self._jobs = jobs
        self.abandoned = threading.Event()
        self.look()

    def look(self) -> None:
        """Notes whether it is abandoned by now."""
        if all(job.order.cancelled.is_set() for job in self._jobs):
            self.abandoned.set()

    @property
    def pictures(self) -> Sequence[Picture]:
        return [job.picture for job in self._jobs]

    def wanted(self, position: int) -> bool:
        return not self._jobs[position].order.cancelled.is_set()

    def step_done(self, step: int) -> None:
        for job in self._jobs:
            if not job.order.cancelled.is_set():
                job.order.emit(Step(job.picture.index, step, job.settings.num_steps))

    def finished(self, position: int, drawn: Drawn) -> None:
        job = self._jobs[position]
        if job.order.cancelled.is_set():
            return
        picture, settings = job.picture, job.settings
        job.order.emit(
            Image(
                image_index=picture.index,
                png=drawn.png,
                seed=picture.seed,
                width=settings.width,
                height=settings.height,
                duration_s=drawn.duration_s,
                batch_size=len(self._jobs),
            )
        )
        job.order.picture_done()


class DrawingThread:
    """A bounded queue of pictures and the thread that works it off.

    Args:
        draw: draws a batch; an error it raises is handed to every request of the batch.
        settings: the bounds of batches and of the queue.
    """

    def __init__(self, draw: Draw, settings: DiffusionSettings) -> None:
        self._draw = draw
        self._planner: BatchPlanner[PictureJob] = BatchPlanner(
            settings.max_batch_size, settings.batch_window_ms / 1000, settings.max_same_adapters
        )
        self._max_queue = settings.max_queue
        self._changed = threading.Condition()
        self._closing = False
        self._running: list[PictureJob] = []
        self._batch = _RunningBatch()
        # Starts at a guess and follows what was drawn, so that Retry-After means something.
        self._mean_picture_s = 1.0
        self._thread = threading.Thread(target=self._work, name="drawing", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, pictures: Sequence[Picture], emit: Emit) -> Order:
        """Queues the pictures of one request, all or none.

        Raises:
            QueueFull: there is no room for all of them.
            ServiceUnavailable: closed.
        """
        order = Order(pictures, emit, self._forget)
        with self._changed:
            if self._closing:
                raise ServiceUnavailable("the diffusion service is stopping", retry_after_s=2.0)
            # A request may be larger than an empty queue with a small limit; it then has the queue to itself.
            if self._planner and len(self._planner) + len(pictures) > self._max_queue:
                retry_after_s = round(max(1.0, len(self._planner) * self._mean_picture_s), 1)
                raise QueueFull(
                    f"{len(self._planner)} pictures wait already, and at most {self._max_queue} may; try again later",
                    retry_after_s=retry_after_s,
                )
            now_s = time.monotonic()
            for job in order.jobs:
                job.arrived_s = now_s
            self._planner.add(order.jobs)
            self._report()
            self._changed.notify()
        return order

    def close(self) -> None:
        """Fails what waits, stops what runs at its next step, and ends the thread."""
        with self._changed:
            self._closing = True
            left = [*self._planner.take_all(), *self._running]
            self._report()
            self._changed.notify()
        for job in left:
            job.order.finish(ServiceUnavailable("the diffusion service stopped", retry_after_s=2.0))
        if self._thread.is_alive():
            self._thread.join()

    def _forget(self, order: Order) -> None:
        with self._changed:
            self._planner.discard(order.jobs)
            self._batch.look()
            self._report()
        order.finish(Cancelled("the request was cancelled"))

    def _work(self) -> None:
        while (jobs := self._next()) is not None:
            started_s = time.monotonic()
            BATCH_SIZE.labels(SERVICE).observe(len(jobs))
            try:
                self._draw(self._batch)
                error: Exception | None = None
            except Exception as raised:
                if not isinstance(raised, NarrativeError):
                    log.exception("drawing failed")
                error = raised
            if error is not None:
                for job in jobs:
                    job.order.finish(error)
            spent_s = (time.monotonic() - started_s) / len(jobs)
            self._mean_picture_s = 0.8 * self._mean_picture_s + 0.2 * spent_s

    def _next(self) -> list[PictureJob] | None:
        with self._changed:
            self._running = []
            while not self._closing:
                jobs, wait_s = self._planner.next_batch(time.monotonic())
                if jobs:
                    self._running = jobs
                    self._batch = _RunningBatch(jobs)
                    self._report()
                    return jobs
                self._report()
                self._changed.wait(wait_s)
        return None

    def _report(self) -> None:
        QUEUE_DEPTH.labels(SERVICE).set(len(self._planner))
        RUNNING.labels(SERVICE).set(len(self._running))
