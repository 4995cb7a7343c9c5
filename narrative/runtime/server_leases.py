"""Leases on the memory of servers that are not ours, such as vLLM and Triton, for calls on an event loop or
a thread."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import structlog

from narrative.errors import ServiceUnavailable
from narrative.runtime.residency import ResidencyClient
from narrative.runtime.residency_models import Movable

log = structlog.get_logger()
_LOOK_S = 0.5


class ServerLeases:
    """Leases on one server's memory.

    Args:
        server: how it is told to give its memory up and to come back.
        model: name under which the residency service knows it.
        num_bytes: device memory that it gives up.
        device: the device on which it runs, as the residency service names it.
        residency: not started yet.
        max_waiting: calls that may wait for the memory at the same time.
        restart_wait_s: longest wait for a server that does not wake, until whatever supervises it has restarted it.
    """

    def __init__(
        self,
        server: Movable,
        model: str,
        num_bytes: int,
        device: str,
        residency: ResidencyClient,
        max_waiting: int,
        restart_wait_s: float = 0.0,
    ) -> None:
        self._server = _Awaited(server, restart_wait_s)
        self._model = model
        self._residency = residency
        self._residency.add(model, num_bytes, self._server, only=device)
        self._waiting = ThreadPoolExecutor(max_waiting, thread_name_prefix="lease")

    def start(self) -> None:
        """Takes the server's memory away, for it starts with it, and attaches.

        Raises:
            ServiceUnavailable: it does not give it up.
        """
        self._server.offload()
        self._residency.start()

    def close(self) -> None:
        """Ends every wait; the server stays as it is."""
        self._server.closing.set()
        self._residency.close()
        self._waiting.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def hold(self, cancelled: threading.Event | None = None) -> Iterator[str]:
        """``lease`` for a caller that has a thread to wait on; where ``cancelled`` is set, waiting ends."""
        with self._server.wanted(), self._residency.lease(self._model, cancelled=cancelled) as device:
            yield device

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator[None]:
        """Keeps the server in memory while the block runs; errors as ``ResidencyClient.lease``."""
        with self._server.wanted() as given_up:
            lease = self._residency.lease(self._model, cancelled=given_up)
            entering = self._waiting.submit(lease.__enter__)

            def give_back(entered: "Future[str]") -> None:
                if not entered.cancelled() and entered.exception() is None:
                    lease.__exit__(None, None, None)

            entered = asyncio.wrap_future(entering)
            # Of a caller that was cancelled, nobody else asks what became of it.
            entered.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                await asyncio.shield(entered)
                yield
            finally:
                # Where the caller was cancelled while it waited, the lease may still come.
                entering.add_done_callback(give_back)


@dataclass
class _Awaited:
    """A server that is waited for where it does not wake, for as long as somebody wants it.

    Attributes:
        callers: set where one has given up.
    """

    server: Movable
    restart_wait_s: float
    callers: set[threading.Event] = field(default_factory=set)
    closing: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def wanted(self) -> Iterator[threading.Event]:
        """Counts a caller while the block runs, and gives an event that is set when it ends."""
        given_up = threading.Event()
        self.callers.add(given_up)
        try:
            yield given_up
        finally:
            self.callers.discard(given_up)
            given_up.set()

    def load(self, device: str) -> None:
        """Wakes the server; where that fails, again and again, until whatever supervises it has restarted it.

        Raises:
            ServiceUnavailable: that of the last attempt, or of the first that the server refused for what it is.
        """
        until_s = time.monotonic() + self.restart_wait_s
        is_first = True
        while True:
            try:
                self.server.load(device)
                return
            except ServiceUnavailable as error:
                is_over = self.closing.is_set() or not self.callers or time.monotonic() >= until_s
                if is_over or _is_refusal(error.__cause__):
                    raise
                if is_first:
                    log.warning("waking failed; waiting for the server's restart", reason=str(error))
                is_first = False
            self.closing.wait(_LOOK_S)

    def offload(self) -> None:
        """Sends it away."""
        self.server.offload()


def _is_refusal(cause: BaseException | None) -> bool:
    """Whether the server answers that it has no such endpoint, which waiting does not change."""
    return isinstance(cause, httpx.HTTPStatusError) and cause.response.is_client_error
