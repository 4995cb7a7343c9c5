"""The client of one model on a Triton Inference Server, for engines that leave the work to it.

Requests and answers are messages of ``narrative.v1`` in tensors of bytes; ``narrative.runtime.triton_backend`` is the
other end. An error comes back as the class that was raised there. tritonclient speaks gRPC on an event loop and engines
are called on threads, so every model has a loop on a thread of its own.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

import grpc
import numpy as np
import structlog
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from narrative.errors import ModelNotFound, NarrativeError, ServiceUnavailable, from_rpc_error
from narrative.runtime.residency import ResidencyClient
from narrative.runtime.server_leases import ServerLeases
from narrative.runtime.triton_errors import ModelAway, ModelDied, from_triton
from narrative.runtime.triton_stream import End, Stream
from narrative.settings import TritonSettings

T = TypeVar("T")
log = structlog.get_logger()

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
_LOOK_S = 0.1
_ASK_S = 10.0


class TritonModel:
    """A model of a Triton server; safe to use from many threads between ``open`` and ``close``.

    It is a ``Movable`` too: under residency Triton loads it when it gets a lease, and unloads it when others need the
    room.

    Args:
        settings: the server's address, the model's name and the limits of time.
    """

    def __init__(self, settings: TritonSettings) -> None:
        self._settings = settings
        self._model = settings.triton_model
        self._where = f"Triton at {settings.triton_url}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"triton-{self._model}", daemon=True)
        self._loading = asyncio.Lock()
        self._loads = 0
        self._leases: ServerLeases | None = None
        self._client: Any = None

    def open(self, leases: ServerLeases | None = None) -> None:
        """Connects, waits for the server where it is still starting, and has it load the model.

        Args:
            leases: where the model takes turns with others; it is loaded when it is first needed then.

        Raises:
            ServiceUnavailable: the server did not answer within ``triton_startup_wait_s``, or cannot load the model.
            ModelNotFound: its repository has no such model; names those it has.
        """
        self._thread.start()
        self._run(self._connect())
        if leases is None:
            self.load()
        else:
            leases.start()
            self._leases = leases

    def close(self) -> None:
        """Ends every stream; the model stays loaded, for others may use it."""
        if not self._thread.is_alive():
            return
        if self._leases is not None:
            self._leases.close()
        self._run(self._disconnect())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def load(self, device: str = "") -> None:
        """Has the server load the model, unless it is ready. Where its instances run its configuration says.

        Raises:
            ModelNotFound: the repository has no such model; names those it has.
            ServiceUnavailable: the server is away, or cannot load the model; says why.
        """
        self._run(self._load())

    def offload(self) -> None:
        """Has the server unload the model, and waits until its memory is free.

        Raises:
            ServiceUnavailable: the server does not unload it.
        """
        self._run(self._unload())

    def call(self, tensors: Mapping[str, bytes], output: str) -> bytes:
        """Asks and waits for the one answer.

        Args:
            tensors: input to its bytes.
            output: the tensor to return.

        Raises:
            NarrativeError: of the class that the model raised.
            DeadlineExceeded: it took longer than ``triton_timeout_s``.
            ServiceUnavailable: the server or the model is not there.
            QueueFull: as many requests wait at the server as may wait.
        """
        return self._run(self._call(tensors, output))

    def stream(self, tensors: Mapping[str, bytes], output: str, tell: Callable[[bytes | End], None]) -> Stream:
        """Asks and returns at once.

        Args:
            tell: called on this model's thread with the bytes of every answer, and with an ``End`` last, whose error is
                one of those of ``call``, or ``Cancelled``.
        """
        stream = Stream(self._loop, tell)
        self._loop.call_soon_threadsafe(stream.begin, self._stream(tensors, output, tell))
        return stream

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _connect(self) -> None:
        self._client = InferenceServerClient(self._settings.triton_url, channel_args=_OPTIONS)
        until_s = time.monotonic() + self._settings.triton_startup_wait_s
        while True:
            try:
                with self._errors():
                    await self._client.is_server_live(client_timeout=_ASK_S)
                return
            except NarrativeError as error:
                if time.monotonic() >= until_s:
                    raise
                log.debug("waiting for Triton", reason=error.message)
            await asyncio.sleep(_LOOK_S)

    async def _disconnect(self) -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._client.close()

    async def _load(self) -> None:
        async with self._loading:
            with self._errors():
                if await self._client.is_model_ready(self._model, client_timeout=_ASK_S):
                    return
                known = sorted({model.name for model in await self._index()})
                if self._model not in known:
                    raise ModelNotFound(
                        f"{self._where} has no model {self._model!r}; its repository has {', '.join(known) or 'none'}",
                        field="model",
                    )
            await self._have_loaded()

    async def _revive(self, loads: int) -> None:
        """Has the model loaded anew, unless another call did since there were so many loads."""
        async with self._loading:
            if self._loads == loads:
                # Triton takes a model that it has loaded for a good one, and would not load it again. It may wait for
                # ever for what the dead process was working on, so nobody waits for the end of its unloading.
                with self._errors():
                    await self._client.unload_model(self._model, client_timeout=self._settings.triton_load_timeout_s)
                await self._have_loaded()

    async def _have_loaded(self) -> None:
        started_s = time.monotonic()
        try:
            await self._client.load_model(self._model, client_timeout=self._settings.triton_load_timeout_s)
        except InferenceServerException as error:
            # The rest is where in the code it was, which the server's log has too.
            why = error.message().partition("\n")[0]
            raise ServiceUnavailable(f"{self._where} cannot load {self._model}: {why}") from error
        self._loads += 1
        log.info("Triton loaded", model=self._model, load_s=round(time.monotonic() - started_s, 2))

    async def _unload(self) -> None:
        async with self._loading:
            await self._have_unloaded()

    async def _have_unloaded(self) -> None:
        try:
            await self._client.unload_model(self._model, client_timeout=self._settings.triton_load_timeout_s)
            async with asyncio.timeout(self._settings.triton_load_timeout_s):
                await self._unloaded()
        except TimeoutError as error:
            raise ServiceUnavailable(f"{self._where} does not get {self._model} unloaded") from error
        except InferenceServerException as error:
            # A server that is gone has given the memory back.
            if await self._is_live():
                raise ServiceUnavailable(
                    f"{self._where} cannot unload {self._model}: {error.message()}; it must have been started with "
                    "--model-control-mode=explicit, or this service without bytes to give up"
                ) from error

    async def _unloaded(self) -> None:
        """Returns when the server has ended what the model was still working on, and freed its memory."""
        while True:
            states = {model.state for model in await self._index() if model.name == self._model}
            if "UNLOADING" not in states:
                return
            await asyncio.sleep(_LOOK_S)

    async def _is_live(self) -> bool:
        try:
            return bool(await self._client.is_server_live(client_timeout=_ASK_S))
        except InferenceServerException:
            return False

    async def _index(self) -> Any:
        return (await self._client.get_model_repository_index(client_timeout=_ASK_S)).models

    async def _call(self, tensors: Mapping[str, bytes], output: str) -> bytes:
        # To its end: Triton takes a stream that is left before for a request that was cancelled.
        answers = [answer async for answer in self._answers(tensors, output)]
        return answers[0]

    async def _stream(self, tensors: Mapping[str, bytes], output: str, tell: Callable[[bytes | End], None]) -> None:
        try:
            async with contextlib.aclosing(self._answers(tensors, output)) as answers:
                async for answer in answers:
                    tell(answer)
        except NarrativeError as error:
            tell(End(error))
        # Whoever waits for the end must hear of it, whatever happened.
        except Exception as error:
            log.exception("asking Triton failed", model=self._model)
            tell(End(NarrativeError(f"{self._where}: {type(error).__name__}")))
        else:
            tell(End())

    async def _answers(self, tensors: Mapping[str, bytes], output: str) -> AsyncGenerator[bytes, None]:
        async with contextlib.nullcontext() if self._leases is None else self._leases.lease():
            loads, answered = self._loads, False
            try:
                async for answer in self._ask(tensors, output):
                    answered = True
                    yield answer
                return
            except ModelAway:
                # The server was restarted, or somebody unloaded it.
                await self._load()
            except ModelDied:
                if answered:
                    raise
                await self._revive(loads)
            async for answer in self._ask(tensors, output):
                yield answer

    async def _ask(self, tensors: Mapping[str, bytes], output: str) -> AsyncGenerator[bytes, None]:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": self._model, "inputs": [_input(name, data) for name, data in tensors.items()]}

        with self._errors():
            answers = self._client.stream_infer(requests(), stream_timeout=self._settings.triton_timeout_s)
            failure: InferenceServerException | None = None
            try:
                async for result, error in answers:
                    if error is None:
                        yield result.as_numpy(output).tobytes()
                    # To the end of the stream: a model whose errors are not heard out may never be unloaded again.
                    failure = failure or error
                if failure is not None:
                    raise failure
            finally:
                # Harmless where it has ended; otherwise the model learns of it.
                answers.cancel()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except InferenceServerException as error:
            raise from_triton(error.message(), error.status(), self._where, self._model) from error
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._where) from error


def leases_of(model: TritonModel, settings: TritonSettings, process: str, max_waiting: int) -> ServerLeases | None:
    """Leases on a model's memory, where the settings want it to take turns with others.

    Args:
        process: name of this process for people, for example "diffusion".
        max_waiting: calls that may wait for the memory at the same time.
    """
    if not (settings.residency_target and settings.triton_bytes):
        return None
    residency = ResidencyClient(settings.residency_target, process, settings.residency_wait_s)
    return ServerLeases(
        model, settings.triton_model, int(settings.triton_bytes), settings.triton_device, residency, max_waiting
    )


def _input(name: str, data: bytes) -> InferInput:
    tensor = InferInput(name, [1, len(data)], "UINT8")
    tensor.set_data_from_numpy(np.frombuffer(data, np.uint8)[np.newaxis])
    return tensor
