"""vLLM's memory under residency: it sleeps while others need the device, and wakes for a call.

Its server must have been started with ``--enable-sleep-mode`` and ``VLLM_SERVER_DEV_MODE=1``, and listen to this
machine only: whoever reaches those endpoints can put it to sleep.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx

from narrative.errors import ServiceUnavailable
from narrative.runtime.residency import ResidencyClient
from services.prompt.settings import PromptSettings

# Level 1 keeps the weights in host memory, adapters included; level 2 drops them.
_LEVEL = "1"


class VllmServer:
    """A ``Movable``: loading wakes the server, offloading puts it to sleep.

    Args:
        llm_url: base URL of its OpenAI-compatible API, ending in /v1.
        timeout_s: longest that falling asleep or waking may take.
    """

    def __init__(self, llm_url: str, timeout_s: float) -> None:
        self._root = llm_url.rstrip("/").removesuffix("/v1")
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
                f"the LLM server at {self._root} refused {path}: {error}; start vLLM with --enable-sleep-mode and "
                "VLLM_SERVER_DEV_MODE=1, or leave NARRATIVE_PROMPT__RESIDENCY_BYTES at 0"
            ) from error

    def _expect(self, *, asleep: bool) -> None:
        try:
            answer = httpx.get(f"{self._root}/is_sleeping", timeout=self._timeout_s).raise_for_status()
            is_asleep = answer.json()["is_sleeping"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ServiceUnavailable(
                f"the LLM server at {self._root} does not say whether it sleeps: {error}"
            ) from error
        if is_asleep is not asleep:
            raise ServiceUnavailable(f"the LLM server at {self._root} {'stays awake' if asleep else 'does not wake'}")


class LlmMemory:
    """Leases on the LLM, for calls on an event loop."""

    def __init__(self, settings: PromptSettings) -> None:
        self._settings = settings
        self._residency = ResidencyClient(settings.residency_target, "prompt", settings.residency_wait_s)
        self._waiting = ThreadPoolExecutor(settings.llm_max_concurrency, thread_name_prefix="lease")

    def start(self) -> None:
        """Puts the server to sleep, for it starts awake, and attaches."""
        settings = self._settings
        server = VllmServer(settings.llm_url, settings.llm_timeout_s)
        server.offload()
        self._residency.add(settings.llm_model, int(settings.residency_bytes), server, only=settings.residency_device)
        self._residency.start()

    def close(self) -> None:
        """Ends every wait; the server stays as it is."""
        self._residency.close()
        self._waiting.shutdown(cancel_futures=True)

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator[None]:
        """Keeps the server awake while the block runs; errors as ``ResidencyClient.lease``."""
        given_up = threading.Event()
        lease = self._residency.lease(self._settings.llm_model, cancelled=given_up)
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
