"""The one wrapper of all LLM calls: an OpenAI-compatible server asked for JSON that obeys a schema."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol, cast

import httpx
import openai
import structlog

from narrative.errors import (
    DeadlineExceeded,
    ModelNotFound,
    ModelOutputInvalid,
    NarrativeError,
    ResourceExhausted,
    ServiceUnavailable,
)
from narrative.runtime.residency import ResidencyClient
from narrative.runtime.server_leases import ServerLeases
from narrative.runtime.vllm import VllmServer
from services.prompt.settings import PromptSettings

Message = Mapping[str, str]
Schema = Mapping[str, Any]
# A server with slots has few; one that takes many calls at a time shares between them what it has read.
WARM_SLOTS = 4
# Half of what a gateway waits for a list of models before it takes a narrative unchecked.
LOOK_S = 0.2
_LIST_S = 5.0
log = structlog.get_logger()


@dataclass(frozen=True)
class Answer:
    """What the LLM said; ``complete`` is false where it ran into the token limit."""

    text: str
    complete: bool


class Llm(Protocol):
    """What the pipeline needs of an LLM."""

    async def ask(self, messages: Sequence[Message], schema: Schema) -> Answer:
        """Asks without sampling for JSON that obeys ``schema``."""
        ...


class OpenAiLlm:
    """Any server that speaks OpenAI's chat completions with ``response_format: json_schema``.

    At most ``llm_max_concurrency`` calls are under way at a time; the others wait here, in order, where they cost
    nothing. Retrying is left to the caller of the service, who knows how long the answer is wanted.

    Attributes:
        adapters: LoRA adapters that the server offers as models of their own, as of the last time it was asked.
    """

    def __init__(self, settings: PromptSettings) -> None:
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.llm_max_concurrency)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client = self._new_client()
        self._listing = openai.OpenAI(**self._connection() | {"timeout": _LIST_S})
        self._lister = ThreadPoolExecutor(1, thread_name_prefix="llm-models")
        self._asked: Future[None] | None = None
        self.adapters: tuple[str, ...] = ()
        self._leases = _leases(settings) if settings.residency_target and settings.residency_bytes else None

    def take_turns(self) -> None:
        """From here on the server is awake only for calls, where residency is set; called once it is warm."""
        if self._leases is not None:
            self._leases.start()

    async def warm_up(self, beginnings: Sequence[Sequence[Message]]) -> None:
        """Waits until the server lists its models, and lets every slot read what later calls begin with.

        Uses connections of its own, and so may run on another event loop than ``ask``.

        Raises:
            ServiceUnavailable: the server did not list its models within ``startup_wait_s``.
        """
        settings = self._settings
        until = time.monotonic() + settings.startup_wait_s
        async with self._new_client() as client:
            while True:
                try:
                    models = await client.models.list()
                    break
                except openai.OpenAIError as error:
                    if time.monotonic() > until:
                        raise ServiceUnavailable(
                            f"the LLM server did not become ready within {settings.startup_wait_s:g} s: {error}",
                            where=settings.llm_url,
                        ) from error
                await asyncio.sleep(0.2)

            async def read(messages: Sequence[Message]) -> None:
                try:
                    await client.chat.completions.create(
                        model=settings.llm_model, messages=cast("Any", list(messages)), temperature=0.0, max_tokens=1
                    )
                except openai.OpenAIError as error:  # Calls will say it better, and may still succeed.
                    log.warning("warm-up of the llm server failed", error=str(error))

            for messages in beginnings:
                # One first: where slots share what was read, as in vLLM, the others cost nothing then.
                await read(messages)
                await asyncio.gather(*(read(messages) for _ in range(min(settings.llm_max_concurrency, WARM_SLOTS))))
        self._keep_adapters(models)
        log.info("llm server is ready", url=settings.llm_url, models=[model.id for model in models.data])

    def close(self) -> None:
        """Closes the connections; called on a thread while the event loop that used them still turns."""
        self._lister.shutdown(wait=False, cancel_futures=True)
        self._listing.close()
        if self._leases is not None:
            self._leases.close()
        if self._loop is not None and self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self.aclose(), self._loop).result(timeout=5.0)

    async def aclose(self) -> None:
        """Closes the connections, on the event loop that used them."""
        await self._client.close()

    def look(self) -> None:
        """Finds out which adapters the server has by now; blocks for at most ``LOOK_S``, so call it on a thread.

        Where the server is slower, what it says is there for the next look.
        """
        if self._asked is None or self._asked.done():
            self._asked = self._lister.submit(self._list)
        wait([self._asked], LOOK_S)

    def _list(self) -> None:
        try:
            self._keep_adapters(self._listing.models.list())
        except (openai.OpenAIError, ValueError) as error:
            log.debug("adapters not listed", reason=str(error))

    def _new_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**self._connection())

    def _connection(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "base_url": settings.llm_url,
            "api_key": settings.llm_api_key or "none",
            "timeout": settings.llm_timeout_s,
            "max_retries": 0,
        }

    async def named(self, model: str) -> Llm:
        """The LLM itself for an empty name or its own, or one of its adapters.

        The server is asked for one that it did not have the last time; it may have been given it since.

        Raises:
            ModelNotFound: no such adapter; names those there are.
            NarrativeError: as ``ask``.
        """
        if model in ("", self._settings.llm_model):
            return self
        if model not in self.adapters:
            with self._translated_errors():
                self._keep_adapters(await self._client.models.list())
        if model not in self.adapters:
            raise self._unknown(model)
        return _Named(self, model)

    def _unknown(self, model: str) -> ModelNotFound:
        known = ", ".join((self._settings.llm_model, *self.adapters))
        return ModelNotFound(f"no model {model[:80]!r}; there are {known}", field="model")

    def _keep_adapters(self, models: Any) -> None:
        # vLLM tells of each adapter which model it belongs to. Another kind of server may list anything.
        listed = [str(model.id) for model in getattr(models, "data", None) or () if getattr(model, "parent", None)]
        self.adapters = tuple(name for name in listed if name != self._settings.llm_model)

    async def ask(self, messages: Sequence[Message], schema: Schema, model: str = "") -> Answer:
        """Asks without sampling for JSON that obeys ``schema``; ``model`` is an adapter, empty for the LLM itself.

        Raises:
            ServiceUnavailable: the server is down or fails.
            ResourceExhausted: the server turns requests away, or sleeps and gets no memory to wake.
            WeightsCorrupt: the server has woken with damaged weights.
            DeadlineExceeded: no answer within ``llm_timeout_s``.
            ModelNotFound: the server does not have that adapter any more.
            ModelOutputInvalid: the server refuses the request itself, or answers without an answer.
        """
        settings = self._settings
        self._loop = asyncio.get_running_loop()
        async with self._slots, self._leases.lease() if self._leases else contextlib.nullcontext():
            with self._translated_errors(model):
                completion = await self._client.chat.completions.create(
                    model=model or settings.llm_model,
                    messages=cast("Any", list(messages)),
                    temperature=0.0,
                    seed=settings.llm_seed,
                    max_tokens=settings.llm_max_tokens,
                    response_format=cast(
                        "Any",
                        {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}},
                    ),
                )
        # The client does not check what it parses: another kind of server may answer 200 with anything.
        choices = getattr(completion, "choices", None)
        if not choices:
            raise ModelOutputInvalid("the LLM server gave no answer", where=settings.llm_url)
        choice = choices[0]
        return Answer(choice.message.content or "", choice.finish_reason != "length")

    @contextlib.contextmanager
    def _translated_errors(self, adapter: str = "") -> Iterator[None]:
        url, timeout_s = self._settings.llm_url, self._settings.llm_timeout_s
        try:
            yield
        except openai.APITimeoutError as error:
            raise DeadlineExceeded(f"the LLM server did not answer within {timeout_s:g} s", where=url) from error
        except openai.APIConnectionError as error:
            raise ServiceUnavailable("the LLM server cannot be reached", retry_after_s=2.0, where=url) from error
        except openai.APIStatusError as error:
            if adapter and error.status_code == httpx.codes.NOT_FOUND:
                self.adapters = tuple(name for name in self.adapters if name != adapter)
                raise self._unknown(adapter) from error
            raise self._translated(error) from error
        except (openai.OpenAIError, ValueError) as error:
            raise ModelOutputInvalid(f"the LLM server does not speak the protocol: {error}", where=url) from error

    def _translated(self, error: openai.APIStatusError) -> NarrativeError:
        url, said = self._settings.llm_url, _said(error)
        if error.status_code in (429, 503):
            return ResourceExhausted(
                f"the LLM server is busy: {said}", retry_after_s=_retry_after_s(error.response.headers), where=url
            )
        if error.status_code >= 500 or error.status_code in (401, 403, 404):
            return ServiceUnavailable(f"the LLM server answered {error.status_code}: {said}", where=url)
        return ModelOutputInvalid(f"the LLM server refused the request ({error.status_code}): {said}", where=url)


@dataclass(frozen=True)
class _Named:
    """An adapter of an LLM."""

    server: OpenAiLlm
    model: str

    async def ask(self, messages: Sequence[Message], schema: Schema) -> Answer:
        return await self.server.ask(messages, schema, self.model)


def _leases(settings: PromptSettings) -> ServerLeases:
    return ServerLeases(
        VllmServer(
            settings.llm_url,
            settings.llm_model,
            settings.llm_api_key,
            settings.llm_timeout_s,
            level=settings.residency_sleep_level,
            read_s=settings.startup_wait_s,
        ),
        settings.llm_model,
        int(settings.residency_bytes),
        settings.residency_device,
        ResidencyClient(settings.residency_target, "prompt", settings.residency_wait_s, settings.residency_priority),
        settings.llm_max_concurrency,
        settings.startup_wait_s,
    )


def _said(error: openai.APIStatusError) -> str:
    return " ".join(str(error.message).split())[:300]


def _retry_after_s(headers: Mapping[str, str]) -> float:
    try:
        return max(0.1, float(headers.get("retry-after", "2")))
    except ValueError:  # An HTTP date: a fixed pause is near enough.
        return 2.0
