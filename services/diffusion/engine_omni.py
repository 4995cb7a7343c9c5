"""Engine on a vLLM-Omni server: FLUX, SD3, Qwen-Image, Z-Image and whatever else it draws, over HTTP.

The server draws; this engine checks requests, queues them, and asks for several pictures at a time. It hears nothing of
single denoising steps, so it reports none.
"""

import asyncio
import contextlib
import io
import threading
import time
from collections.abc import AsyncIterator, Generator

import PIL.Image
import structlog

from narrative.errors import (
    Cancelled,
    InvalidParameter,
    ModelOutputInvalid,
    NarrativeError,
    QueueFull,
    ServiceUnavailable,
)
from narrative.runtime.metrics import QUEUE_DEPTH, RUNNING
from narrative.runtime.residency import ResidencyClient
from narrative.runtime.server_leases import ServerLeases
from services.diffusion.blocking import generate
from services.diffusion.engine import AdapterFile, Emit, Finished, Image, ImageRequest, ModelInfo, Step, Ticket
from services.diffusion.omni_client import OmniClient
from services.diffusion.omni_request import OmniPicture, pictures_of
from services.diffusion.omni_sleep import OmniServer
from services.diffusion.png import encode_png
from services.diffusion.settings import DiffusionSettings

NAME = "vllm-omni"
SERVICE = "diffusion"
log = structlog.get_logger()


class OmniOrder:
    """The pictures of one request; a ``Ticket``."""

    def __init__(self, pictures: list[OmniPicture], emit: Emit, loop: asyncio.AbstractEventLoop) -> None:
        self.pictures = pictures
        self.emit = emit
        self.waiting = len(pictures)
        self.task: asyncio.Task[None] | None = None
        self._loop = loop

    def cancel(self) -> None:
        with contextlib.suppress(RuntimeError):  # The engine was closed, and everything with it.
            self._loop.call_soon_threadsafe(lambda: self.task and self.task.cancel())


class OmniEngine:
    """See ``DiffusionEngine``; one event loop on a thread of its own does all the waiting."""

    def __init__(self, settings: DiffusionSettings) -> None:
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client = OmniClient(settings)
        self._slots = asyncio.Semaphore(settings.omni_max_concurrency)
        self._leases: ServerLeases | None = None
        self._model = ""
        self._changed = threading.Lock()
        self._closing = False
        self._waiting = self._running = 0
        # Starts at a guess and follows what was drawn, so that Retry-After means something.
        self._mean_picture_s = 10.0

    def load(self) -> None:
        """Waits for the server.

        Raises:
            ServiceUnavailable: it did not become ready, serves another model, or cannot sleep where it has to.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=NAME, daemon=True)
        self._thread.start()
        self._model = asyncio.run_coroutine_threadsafe(self._client.model(), self._loop).result()
        settings = self._settings
        if settings.residency_target and settings.omni_bytes:
            self._leases = ServerLeases(
                OmniServer(settings.omni_url, settings.omni_api_key, settings.omni_timeout_s),
                self._model,
                int(settings.omni_bytes),
                settings.omni_device,
                ResidencyClient(
                    settings.residency_target, SERVICE, settings.residency_wait_s, settings.residency_priority
                ),
                settings.omni_max_concurrency,
                settings.omni_startup_wait_s,
            )
            self._leases.start()

    def close(self) -> None:
        with self._changed:
            self._closing = True
        if self._loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        if self._leases is not None:
            self._leases.close()
        self._loop.close()

    def models(self) -> list[ModelInfo]:
        settings = self._settings
        return [ModelInfo(self._model, settings.omni_task, NAME, settings.omni_licence, is_default=True)]

    def check(self, request: ImageRequest) -> None:
        pictures_of(request, self._model, self._settings)

    def submit(self, request: ImageRequest, emit: Emit) -> Ticket:
        assert self._loop is not None, "load() comes first"
        order = OmniOrder(pictures_of(request, self._model, self._settings), emit, self._loop)
        with self._changed:
            if self._closing:
                raise ServiceUnavailable("the diffusion service is stopping", retry_after_s=2.0)
            # A request may be larger than an empty queue with a small limit; it then has the queue to itself.
            if self._waiting and self._waiting + order.waiting > self._settings.max_queue:
                wait_s = self._waiting * self._mean_picture_s / self._settings.omni_max_concurrency
                raise QueueFull(
                    f"{self._waiting} pictures wait already, and at most {self._settings.max_queue} may; try again "
                    "later",
                    retry_after_s=round(max(1.0, wait_s), 1),
                )
            self._count(waiting=order.waiting)
            self._loop.call_soon_threadsafe(self._begin, order)
        return order

    def generate(self, request: ImageRequest) -> Generator[Step | Image, None, None]:
        return generate(self, request)

    def publish_adapter(self, asked: AdapterFile) -> None:
        raise InvalidParameter("engine vllm-omni has no adapters; engine diffusers takes them", field="name")

    def kohya_adapter(self, name: str) -> str:
        raise InvalidParameter("engine vllm-omni has no adapters; engine diffusers takes them", field="name")

    def _begin(self, order: OmniOrder) -> None:
        order.task = asyncio.create_task(self._draw_all(order))
        # Called also where the task was cancelled before its first step.
        order.task.add_done_callback(lambda done: self._end(order, done))

    def _end(self, order: OmniOrder, done: "asyncio.Task[None]") -> None:
        with self._changed:
            self._count(waiting=-order.waiting)
        error: BaseException | None
        if done.cancelled():
            stopping = ServiceUnavailable("the diffusion service stopped", retry_after_s=2.0)
            error = stopping if self._closing else Cancelled("the request was cancelled")
        else:
            error = done.exception()
        assert error is None or isinstance(error, Exception)
        if error is not None and not isinstance(error, NarrativeError):
            log.error("drawing failed", exc_info=error)
        order.emit(Finished(error))

    async def _draw_all(self, order: OmniOrder) -> None:
        drawing = [asyncio.create_task(self._draw(order, picture)) for picture in order.pictures]
        try:
            await asyncio.gather(*drawing)
        finally:
            for one in drawing:
                one.cancel()
            await asyncio.gather(*drawing, return_exceptions=True)

    async def _draw(self, order: OmniOrder, picture: OmniPicture) -> None:
        async with self._slot(order):
            started_s = time.monotonic()
            data = await self._client.draw(picture)
            spent_s = time.monotonic() - started_s
        self._mean_picture_s = 0.8 * self._mean_picture_s + 0.2 * spent_s
        png, width, height = await asyncio.to_thread(_signed, data, picture)
        order.emit(Image(picture.index, png, picture.seed, width, height, spent_s, batch_size=1))

    @contextlib.asynccontextmanager
    async def _slot(self, order: OmniOrder) -> AsyncIterator[None]:
        """One of the places at the server, which is awake while the block runs."""
        async with self._slots, self._leases.lease() if self._leases else contextlib.nullcontext():
            order.waiting -= 1
            with self._changed:
                self._count(waiting=-1, running=1)
            try:
                yield
            finally:
                with self._changed:
                    self._count(running=-1)

    def _count(self, *, waiting: int = 0, running: int = 0) -> None:
        self._waiting += waiting
        self._running += running
        QUEUE_DEPTH.labels(SERVICE).set(self._waiting)
        RUNNING.labels(SERVICE).set(self._running)

    async def _end_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()
        await asyncio.get_running_loop().shutdown_default_executor()


def _signed(data: bytes, picture: OmniPicture) -> tuple[bytes, int, int]:
    """The picture as a PNG file that holds what was asked for, its width and its height.

    Raises:
        ModelOutputInvalid: the data is no picture.
    """
    try:
        with PIL.Image.open(io.BytesIO(data)) as drawn:
            png = encode_png(drawn, {"engine": NAME, **picture.fields})
            return png, drawn.width, drawn.height
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ModelOutputInvalid(f"the vLLM-Omni server answered with something that is no picture: {error}") from error
