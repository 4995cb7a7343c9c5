"""How busy the LLM server is, by its own account: more work is turned away instead of piling up there."""

import asyncio
import contextlib
import time

import httpx
import structlog
from prometheus_client.parser import text_string_to_metric_families

from narrative.errors import QueueFull
from narrative.runtime.vllm import server_root
from services.prompt.settings import PromptSettings

# As vLLM names them; with several engines behind one server each has a line of its own.
RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
KV_CACHE = "vllm:kv_cache_usage_perc"
FRESH_S = 0.5
TIMEOUT_S = 2.0
RETRY_AFTER_S = 2.0
log = structlog.get_logger()


class LlmLoad:
    """Reads the server's ``/metrics``, at most every ``FRESH_S`` and only while calls come.

    A server without vLLM's metrics (llama.cpp, a service in the cloud) is asked once and never again. One that does not
    answer is not judged here: the call itself will find out, and say it better.
    """

    def __init__(self, settings: PromptSettings) -> None:
        self._settings = settings
        self._root = server_root(settings.llm_url)
        self._reading = asyncio.Lock()
        self._read_s = -FRESH_S
        self._has_metrics = True
        self._waiting = 0
        self._kv_cache = 0.0

    async def check(self) -> None:
        """Turns a call away where the server has enough to do.

        Raises:
            QueueFull: more than ``llm_max_waiting`` requests wait there, or its KV cache is fuller than
                ``llm_max_kv_cache``.
        """
        async with self._reading:
            if self._has_metrics and time.monotonic() - self._read_s >= FRESH_S:
                await self._read()
        settings = self._settings
        if self._waiting > settings.llm_max_waiting:
            raise QueueFull(
                f"{self._waiting} requests wait at the LLM server at {self._root}, at most {settings.llm_max_waiting} "
                "may; try again later",
                retry_after_s=RETRY_AFTER_S,
            )
        if self._kv_cache > settings.llm_max_kv_cache:
            raise QueueFull(
                f"the KV cache of the LLM server at {self._root} is {self._kv_cache:.0%} full, at most "
                f"{settings.llm_max_kv_cache:.0%} may be; try again later",
                retry_after_s=RETRY_AFTER_S,
            )

    async def _read(self) -> None:
        self._waiting, self._kv_cache = 0, 0.0
        try:
            # A connection a time: at this rate it costs nothing, and there is none to be closed.
            async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
                answer = await client.get(f"{self._root}/metrics")
        except httpx.HTTPError:
            return
        finally:
            self._read_s = time.monotonic()
        if answer.is_server_error and answer.status_code != httpx.codes.NOT_IMPLEMENTED:
            return
        values: dict[str, list[float]] = {}
        with contextlib.suppress(ValueError):
            values = read_values(answer.text, RUNNING, WAITING, KV_CACHE) if answer.is_success else {}
        if WAITING not in values:
            self._has_metrics = False
            log.info("the llm server has no metrics of vllm; its load is not watched", url=self._root)
            return
        # Where nothing runs nothing has to wait. Were the other numbers left over from requests that were taken back,
        # nobody would ever be let in to renew them.
        if sum(values.get(RUNNING, [])):
            self._waiting = int(sum(values[WAITING]))
            self._kv_cache = max(values.get(KV_CACHE, [0.0]))


def read_values(text: str, *names: str) -> dict[str, list[float]]:
    """The values of some metrics in Prometheus' text format; one that is not there is left out.

    Raises:
        ValueError: a line of theirs is malformed.
    """
    # Most of the text is about other things, and parsing all of it costs milliseconds.
    lines = (line for line in text.splitlines() if line.startswith(names))
    values: dict[str, list[float]] = {}
    for family in text_string_to_metric_families("\n".join(lines)):
        for sample in family.samples:
            if sample.name in names:
                values.setdefault(sample.name, []).append(sample.value)
    return values
