"""Servers of the vLLM family under residency: one sleeps while others need the device, and wakes for a call.

Such a server must be out of reach for strangers: whoever reaches the endpoints used here can put it to sleep.
"""

import time
from collections.abc import Callable

import httpx
import structlog

from narrative.errors import ServiceUnavailable

log = structlog.get_logger()
_LOOK_S = 0.5
# Level 1 keeps the weights in host memory, adapters included; level 2 drops them.
_LEVEL = "1"


def server_root(url: str) -> str:
    """The address of a server whose OpenAI-compatible API is at ``url``, which may end in /v1."""
    return url.rstrip("/").removesuffix("/v1")


def wake(attempt: Callable[[], None], restart_wait_s: float) -> None:
    """Has a server waked; where that fails, again and again, until whatever supervises it has restarted it.

    Args:
        attempt: wakes it, or finds it awake; raises ServiceUnavailable where that fails.
        restart_wait_s: longest time in which to try again.

    Raises:
        ServiceUnavailable: that of the last attempt, or of the first that the server refused for what it is.
    """
    until_s = time.monotonic() + restart_wait_s
    is_first = True
    while True:
        try:
            attempt()
            return
        except ServiceUnavailable as error:
            if time.monotonic() >= until_s or _is_refusal(error.__cause__):
                raise
            if is_first:
                log.warning("waking failed; waiting for the server's restart", reason=str(error))
            is_first = False
        time.sleep(_LOOK_S)


class VllmServer:
    """A ``Movable``: loading wakes the server, offloading puts it to sleep.

    It must have been started with ``--enable-sleep-mode`` and ``VLLM_SERVER_DEV_MODE=1``.

    Args:
        url: base URL of its OpenAI-compatible API.
        timeout_s: longest that falling asleep or waking may take.
        restart_wait_s: longest wait for a server that does not wake, until whatever supervises it has restarted it.
    """

    def __init__(self, url: str, timeout_s: float, restart_wait_s: float = 0.0) -> None:
        self._root = server_root(url)
        self._timeout_s = timeout_s
        self._restart_wait_s = restart_wait_s

    def load(self, device: str) -> None:
        """Wakes the server. One that has died meanwhile is waited for: it reads its weights anew, and is awake.

        Raises:
            ServiceUnavailable: it does not wake, nor come back awake.
        """
        wake(self._wake, self._restart_wait_s)

    def offload(self) -> None:
        """Puts the server to sleep.

        Raises:
            ServiceUnavailable: it does not fall asleep, or has no sleep mode.
        """
        self._post("/sleep", {"level": _LEVEL})
        self._expect(asleep=True)

    def _wake(self) -> None:
        self._post("/wake_up", {})
        self._expect(asleep=False)

    def _post(self, path: str, query: dict[str, str]) -> None:
        try:
            httpx.post(f"{self._root}{path}", params=query, timeout=self._timeout_s).raise_for_status()
        except httpx.HTTPError as error:
            raise ServiceUnavailable(
                f"the LLM server refused {path}; start vLLM with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1, or "
                "set no bytes that it gives up under residency",
                where=f"{self._root}: {error}",
            ) from error

    def _expect(self, *, asleep: bool) -> None:
        try:
            answer = httpx.get(f"{self._root}/is_sleeping", timeout=self._timeout_s).raise_for_status()
            is_asleep = answer.json()["is_sleeping"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ServiceUnavailable(
                "the LLM server does not say whether it sleeps", where=f"{self._root}: {error}"
            ) from error
        if is_asleep is not asleep:
            stays = "stays awake" if asleep else "does not wake"
            raise ServiceUnavailable(f"the LLM server {stays}", where=self._root)


def _is_refusal(cause: BaseException | None) -> bool:
    """Whether the server answers that it has no such endpoint, which waiting does not change."""
    return isinstance(cause, httpx.HTTPStatusError) and cause.response.is_client_error
