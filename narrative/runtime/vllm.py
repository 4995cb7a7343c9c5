"""Servers of the vLLM family under residency: one sleeps while others need the device, and wakes for a call.

Such a server must be out of reach for strangers: whoever reaches the endpoints used here can put it to sleep.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx

from narrative.errors import ServiceUnavailable
from narrative.runtime.residency import ResidencyClient
from narrative.runtime.residency_models import Movable

# Level 1 keeps the weights in host memory, adapters included; level 2 drops them.
_LEVEL = "1"


def server_root(url: str) -> str:
    """The address of a server whose OpenAI-compatible API is at ``url``, which may end in /v1."""
    return url.rstrip("/").removesuffix("/v1")


class VllmServer:
    """A ``Movable``: loading wakes the server, offloading puts it to sleep.

    It must have been started with ``--enable-sleep-mode`` and ``VLLM_SERVER_DEV_MODE=1``.

    Args:
        url: base URL of its OpenAI-compatible API.
        timeout_s: longest that falling asleep or waking may take.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._root = server_root(url)
        self._timeout_s = timeout_s

    def load(self, device: str) -> None:
        """Wakes the server.

        Raises:
            ServiceUnavailable: it does not wake.
        """
        self._post("/wake_up", {})
        self._expect(asleep=False)

    def offload(self) -> None:
        """Puts the server to sleep.

        Raises:
            ServiceUnavailable: it does not fall asleep, or has no sleep mode.
        """
        self._post("/sleep", {"level": _LEVEL})
        self._expect(asleep=True)

    def _post(self, path: str, query: dict[str, str]) -> None:
        try:
            httpx.post(f"{self._root}{path}", params=query, timeout=self._timeout_s).raise_for_status()
        except httpx.HTTPError as error:
            raise ServiceUnavailable(
                f"the server at {self._root} refused {path}: {error}; start vLLM with --enable-sleep-mode and "
                "VLLM_SERVER_DEV_MODE=1, or set no bytes that it gives up under residency"
            ) from error

    def _expect(self, *, asleep: bool) -> None:
        try:
            answer = httpx.get(f"{self._root}/is_sleeping", timeout=self._timeout_s).raise_for_status()
            is_asleep = answer.json()["is_sleeping"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ServiceUnavailable(f"the server at {self._root} does not say whether it sleeps: {error}") from error
        if is_asleep is not asleep:
            raise ServiceUnavailable(f"the server at {self._root} {'stays awake' if asleep else 'does not wake'}")


class ServerLeases:
    """Leases on a server's memory, for calls on an event loop.

    Args:
        server: what sleeps and wakes.
        model: name under which the residency service knows it.
        num_bytes: device memory that it gives up asleep.
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
        """Puts the server to sleep, for it starts awake, and attaches.

        Raises:
            ServiceUnavailable: it does not fall asleep.
        """
        self._server.offload()
        self._residency.start()

    def close(self) -> None:
        """Ends every wait; the server stays as it is."""
        self._residency.close()
        self._waiting.shutdown(cancel_futures=True)

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator[None]:
        """Keeps the server awake while the block runs; errors as ``ResidencyClient.lease``."""
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
