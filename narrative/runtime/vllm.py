"""Servers of the vLLM family under residency: one sleeps while others need the device, and wakes for a call.

Such a server must be out of reach for strangers: whoever reaches the endpoints used here can put it to sleep.
"""

import contextlib
from typing import Any

import httpx
import structlog

from narrative.errors import InvalidParameter, NarrativeError, ServiceUnavailable, WeightsCorrupt

log = structlog.get_logger()
# Levels of sleep: weights in host memory, adapters included; or dropped, to be read anew from their files.
KEPT, DROPPED = 1, 2
_QUESTION = {"prompt": "One, two, three, four,", "max_tokens": 8, "temperature": 0.0, "seed": 0}


def server_root(url: str) -> str:
    """The address of a server whose OpenAI-compatible API is at ``url``, which may end in /v1."""
    return url.rstrip("/").removesuffix("/v1")


class VllmServer:
    """A ``Movable``: loading wakes the server, offloading puts it to sleep.

    It must have been started with ``--enable-sleep-mode`` and ``VLLM_SERVER_DEV_MODE=1``. Weights may come back damaged
    without a word from it. So it is asked a question before it first sleeps and whenever it has woken; where it answers
    otherwise, its weights are read anew.

    Args:
        url: base URL of its OpenAI-compatible API.
        model: name of the model as the server knows it.
        api_key: bearer token; any word where it asks for none.
        timeout_s: longest that falling asleep, waking or an answer may take.
        level: how deep it sleeps, ``KEPT`` or ``DROPPED``.
        read_s: longest that reading its weights may take.
    """

    def __init__(
        self, url: str, model: str, api_key: str, timeout_s: float, *, level: int = KEPT, read_s: float = 0.0
    ) -> None:
        self._root = server_root(url)
        self._question = {"model": model, **_QUESTION}
        self._headers = {"Authorization": f"Bearer {api_key or 'none'}"}
        self._timeout_s = timeout_s
        self._level = level
        self._read_s = max(timeout_s, read_s)
        self._expected: str | None = None
        self._slept = 0

    def load(self, device: str) -> None:
        """Wakes the server; one that was restarted meanwhile is awake.

        Raises:
            ServiceUnavailable: it does not wake, or does not answer then.
            WeightsCorrupt: it answers differently than before it slept.
        """
        try:
            self._wake()
        except NarrativeError:
            # Its memory is in nobody's books from here on.
            with contextlib.suppress(NarrativeError):
                self._sleep(self._level)
            raise

    def offload(self) -> None:
        """Puts the server to sleep.

        Raises:
            ServiceUnavailable: it does not fall asleep, or has no sleep mode.
            InvalidParameter: it serves adapters, which do not outlive that its weights are dropped.
        """
        if self._expected is None and not self._is_asleep():
            self._expected = self._answer()
        self._sleep(self._level)

    def _wake(self) -> None:
        is_asleep, slept = self._is_asleep(), self._slept
        if slept and not is_asleep:
            log.info("the llm server was restarted while it slept", url=self._root)
            self._expected = None
        self._slept = 0
        if is_asleep:
            self._wake_up(slept or self._level)
        answer = self._answer()
        if self._expected is None:
            self._expected = answer
        elif answer != self._expected:
            self._read_anew()

    def _read_anew(self) -> None:
        log.warning("the llm server answers differently than before it slept; its weights are read anew")
        # Adapters would be gone after that.
        if not self._adapters():
            self._sleep(DROPPED)
            self._slept = 0
            self._wake_up(DROPPED)
            if self._answer() == self._expected:
                return
        raise WeightsCorrupt(
            "the LLM server answers differently than before it slept: its weights are damaged; restart it",
            where=self._root,
        )

    def _sleep(self, level: int) -> None:
        if level == DROPPED and (adapters := self._adapters()):
            raise InvalidParameter(
                f"the LLM server must sleep at level {KEPT}: at level {DROPPED} it would lose its LoRA adapters "
                f"{', '.join(adapters)}"
            )
        self._tell("POST", "/sleep", params={"level": level})
        self._expect(asleep=True)
        self._slept = level

    def _wake_up(self, slept: int) -> None:
        if slept == DROPPED:
            self._tell("POST", "/wake_up", params={"tags": "weights"})
            self._tell("POST", "/collective_rpc", json={"method": "reload_weights"}, timeout=self._read_s)
            self._tell("POST", "/wake_up", params={"tags": "kv_cache"})
        else:
            self._tell("POST", "/wake_up")
        self._expect(asleep=False)

    def _expect(self, *, asleep: bool) -> None:
        if self._is_asleep() is not asleep:
            stays = "stays awake" if asleep else "does not wake"
            raise ServiceUnavailable(f"the LLM server {stays}", where=self._root)

    def _is_asleep(self) -> bool:
        try:
            return bool(self._tell("GET", "/is_sleeping").json()["is_sleeping"])
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceUnavailable("the LLM server does not say whether it sleeps", where=self._root) from error

    def _answer(self) -> str:
        answer = self._ask("POST", "/v1/completions", "does not answer", json=self._question)
        try:
            return str(answer.json()["choices"][0]["text"])
        except (ValueError, LookupError, TypeError) as error:
            raise ServiceUnavailable("the LLM server gives no answer", where=self._root) from error

    def _adapters(self) -> list[str]:
        """Names of the LoRA adapters that it serves."""
        answer = self._ask("GET", "/v1/models", "does not list its models")
        try:
            return [str(model["id"]) for model in answer.json()["data"] if model.get("parent")]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServiceUnavailable("the LLM server does not list its models", where=self._root) from error

    def _tell(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Calls one of the endpoints that a server has in development mode."""
        return self._ask(
            method,
            path,
            f"refused {path}; start vLLM with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1, or set no bytes that it "
            "gives up under residency",
            **content,
        )

    def _ask(self, method: str, path: str, failure: str, **content: Any) -> httpx.Response:
        request = {"headers": self._headers, "timeout": self._timeout_s, **content}
        try:
            return httpx.request(method, f"{self._root}{path}", **request).raise_for_status()
        except httpx.HTTPError as error:
            raise ServiceUnavailable(f"the LLM server {failure}", where=f"{self._root}: {error}") from error
