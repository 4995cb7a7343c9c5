"""The client of one model on a Triton Inference Server, for engines that leave the work to it.

Requests and answers are messages of ``narrative.v1`` in tensors of bytes; ``narrative.runtime.triton_backend`` is the
other end. An error comes back as the class that was raised there. One answer is waited for where it was asked for,
without a change of thread; answers in pieces come in on an event loop, on a thread of its own.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import numpy as np
import structlog
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient as StreamingClient
from tritonclient.utils import InferenceServerException

from narrative.errors import NarrativeError
from narrative.runtime.residency import ResidencyClient
from narrative.runtime.server_leases import ServerLeases
from narrative.runtime.triton_control import TritonControl
from narrative.runtime.triton_errors import ModelAway, ModelDied
from narrative.runtime.triton_stream import End, Stream, Tell
from narrative.settings import TritonSettings

log = structlog.get_logger()

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


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
        self._where = settings.triton_url
        self._client: Any = InferenceServerClient(settings.triton_url, channel_args=_OPTIONS)
        self._control = TritonControl(self._client, settings, self._where)
        self._leases: ServerLeases | None = None
        self._on_one_gpu = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"triton-{self._model}", daemon=True)
        self._streaming: Any = None

    def open(self, leases: ServerLeases | None = None) -> None:
        """Connects, waits for the server where it is still starting, and has it load the model.

        Args:
            leases: where the model takes turns with others; it is loaded when it is first needed then.

        Raises:
            ServiceUnavailable: the server did not answer within ``triton_startup_wait_s``, or cannot load the model.
            ModelNotFound: its repository has no such model; names those it has.
        """
        self._thread.start()
        self._control.await_server()
        if leases is None:
            self._control.load()
        else:
            leases.start()
            self._leases = leases

    def close(self) -> None:
        """Ends every call and stream; the model stays loaded, for others may use it."""
        if self._leases is not None:
            self._leases.close()
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end_streams(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()
        self._client.close()

    def load(self, device: str = "") -> None:
        """Has the server load the model, unless it is ready. Where its instances run its configuration says.

        Args:
            device: the one on which its memory is booked.

        Raises:
            ModelNotFound: the repository has no such model; names those it has.
            ServiceUnavailable: the server is away, or cannot load the model; says why.
            NarrativeError: it runs the model on more GPUs, or does not say where; it is unloaded again.
        """
        self._on_one_gpu = device.startswith("cuda")
        self._control.load(on_one_gpu=self._on_one_gpu)

    def offload(self) -> None:
        """Has the server unload the model, and waits until its memory is free.

        Raises:
            ServiceUnavailable: the server does not unload it.
        """
        self._control.unload()

    def call(self, tensors: Mapping[str, bytes], output: str, cancelled: threading.Event | None = None) -> bytes:
        """Asks a model that answers once, and waits for that.

        Args:
            tensors: input to its bytes.
            output: the tensor to return.
            cancelled: where it is set, waiting for the model's memory ends.

        Raises:
            Cancelled: ``cancelled`` was set while it waited.
            NarrativeError: of the class that the model raised.
            DeadlineExceeded: it took longer than ``triton_timeout_s``.
            ServiceUnavailable: the server or the model is not there.
            QueueFull: as many requests wait at the server as may wait.
        """
        with contextlib.nullcontext() if self._leases is None else self._leases.hold(cancelled):
            loads = self._control.loads
            try:
                return self._infer(tensors, output)
            except ModelAway:
                # The server was restarted, or somebody unloaded it.
                self._control.load(on_one_gpu=self._on_one_gpu)
            except ModelDied:
                self._control.revive(loads)
            return self._infer(tensors, output)

    def stream(self, tensors: Mapping[str, bytes], output: str, tell: Tell) -> Stream:
        """Asks a model that answers in pieces, and returns at once.

        Args:
            tell: called on this model's thread with the bytes of every answer, and with an ``End`` last, whose error is
                one of those of ``call``, or ``Cancelled``. True says that all work is done, and what is left of the
                answer may come even to a caller that has cancelled.
        """
        stream = Stream(self._loop, tell)
        self._loop.call_soon_threadsafe(stream.begin, self._stream(stream, tensors, output))
        return stream

    def _infer(self, tensors: Mapping[str, bytes], output: str) -> bytes:
        with self._control.errors():
            result = self._client.infer(
                self._model,
                [_input(name, data) for name, data in tensors.items()],
                outputs=[InferRequestedOutput(output)],
                client_timeout=self._settings.triton_timeout_s,
            )
        return bytes(result.as_numpy(output))

    async def _end_streams(self) -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._streaming is not None:
            await self._streaming.close()

    async def _stream(self, stream: Stream, tensors: Mapping[str, bytes], output: str) -> None:
        try:
            async with contextlib.aclosing(self._answers(stream, tensors, output)) as answers:
                async for answer in answers:
                    stream.tell(answer)
        except NarrativeError as error:
            stream.tell(End(error))
        # Whoever waits for the end must hear of it, whatever happened.
        except Exception as error:
            log.exception("asking Triton failed", model=self._model)
            stream.tell(End(NarrativeError(f"Triton: {type(error).__name__}", where=self._where)))
        else:
            stream.tell(End())

    async def _answers(self, stream: Stream, tensors: Mapping[str, bytes], output: str) -> AsyncGenerator[bytes, None]:
        async with contextlib.nullcontext() if self._leases is None else self._leases.lease():
            loads, answered = self._control.loads, False
            try:
                async for answer in self._ask(stream, tensors, output):
                    answered = True
                    yield answer
                return
            except ModelAway:
                await asyncio.to_thread(self._control.load, on_one_gpu=self._on_one_gpu)
            except ModelDied:
                if answered:
                    raise
                await asyncio.to_thread(self._control.revive, loads)
            async for answer in self._ask(stream, tensors, output):
                yield answer

    async def _ask(self, stream: Stream, tensors: Mapping[str, bytes], output: str) -> AsyncGenerator[bytes, None]:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": self._model, "inputs": [_input(name, data) for name, data in tensors.items()]}

        if self._streaming is None:
            self._streaming = StreamingClient(self._settings.triton_url, channel_args=_OPTIONS)
        with self._control.errors():
            answers = self._streaming.stream_infer(requests(), stream_timeout=self._settings.triton_timeout_s)
            failure: InferenceServerException | None = None
            stream.is_ending = False
            try:
                async for result, error in answers:
                    if error is None:
                        yield bytes(result.as_numpy(output))
                    else:
                        # To the end of the stream: a model whose errors are not heard out may never be unloaded again.
                        failure = failure or error
                        stream.is_ending = True
                if failure is not None:
                    raise failure
            finally:
                # Harmless where it has ended; otherwise the model learns of it.
                answers.cancel()


def leases_of(model: TritonModel, settings: TritonSettings, process: str, max_waiting: int) -> ServerLeases | None:
    """Leases on a model's memory, where the settings want it to take turns with others.

    Args:
        process: name of this process for people, for example "diffusion".
        max_waiting: calls that may wait for the memory at the same time.
    """
    if not (settings.residency_target and settings.triton_bytes):
        return None
    residency = ResidencyClient(
        settings.residency_target, process, settings.residency_wait_s, settings.residency_priority
    )
    return ServerLeases(
        model, settings.triton_model, int(settings.triton_bytes), settings.triton_device, residency, max_waiting
    )


def _input(name: str, data: bytes) -> InferInput:
    tensor = InferInput(name, [1, len(data)], "UINT8")
    tensor.set_data_from_numpy(np.frombuffer(data, np.uint8)[np.newaxis])
    return tensor
