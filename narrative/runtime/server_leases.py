"""Leases on the memory of servers that are not ours, such as vLLM and Triton, for calls on an event loop or
a thread."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor

from narrative.runtime.residency import ResidencyClient
from narrative.runtime.residency_models import Movable


class ServerLeases:
    """Leases on one server's memory.

    Args:
        server: how it is told to give its memory up and to come back.
        model: name under which the residency service knows it.
        num_bytes: device memory that it gives up.
        device: the device on which it runs, as the residency service names it.
        residency: not started yet.
        max_waiting: calls that may wait for the memory at the same time.
    """

    def __init__(
        self, server: Movable, model: str, num_bytes: int, device: str, residency: ResidencyClient, max_waiting: int
    ) -> None:
        self._server = server
        self._model = model
        self._residency = residency
        self._residency.add(model, num_bytes, server, only=device)
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
        self._residency.close()
        self._waiting.shutdown(cancel_futures=True)

    def hold(self) -> contextlib.AbstractContextManager[str]:
        """``lease`` for a caller that has a thread to wait on."""
        return self._residency.lease(self._model)

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator[None]:
        """Keeps the server in memory while the block runs; errors as ``ResidencyClient.lease``."""
        given_up = threading.Event()
        lease = self._residency.lease(self._model, cancelled=given_up)
        entering = self._waiting.submit(lease.__enter__)

        def give_back(entered: "Future[str]") -> None:
            if not entered.cancelled() and entered.exception() is None:
                lease.__exit__(None, None, None)

        try:
            await asyncio.shield(asyncio.wrap_future(entering))
            yield
        finally:
            # Where the caller was cancelled while it waited, the lease may still come.
            given_up.set()
            entering.add_done_callback(give_back)
