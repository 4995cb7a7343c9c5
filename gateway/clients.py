"""The services, as the gateway speaks to them: a deadline and the request id on every call, errors given back."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.settings import GatewaySettings
from narrative.errors import DeadlineExceeded, NarrativeError, NotFound, ServiceUnavailable
from narrative.runtime.channel import call_metadata, open_channel, rpc_errors
from narrative.v1 import (
    asr_pb2,
    asr_pb2_grpc,
    common_pb2,
    common_pb2_grpc,
    diffusion_pb2,
    diffusion_pb2_grpc,
    prompt_pb2,
    prompt_pb2_grpc,
    residency_pb2,
    residency_pb2_grpc,
    translation_pb2,
    translation_pb2_grpc,
)

FULL_NAMES = {
    "asr": "narrative.v1.AsrService",
    "prompt": "narrative.v1.PromptService",
    "translation": "narrative.v1.TranslationService",
    "diffusion": "narrative.v1.DiffusionService",
}


# A message above 128 KiB is memory that glibc maps anew, and copied several times on its way: a recording of 430 kB in
# one takes 0.8 ms longer.
_CHUNK_BYTES = 120 * 1024
# Less than the translation service takes in one request (its max_texts), and soon done: others wait behind it, and
# their clocks run.
_TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class Drawn:
    """A finished picture: ``png`` is the file, ``image_index`` its place in the request."""

    image_index: int
    png: bytes
    seed: int
    width: int
    height: int


class Services:
    """Channels to the four services.

    Every method raises the NarrativeError that the service raised, or ServiceUnavailable with the service's name.

    Args:
        interceptors: client interceptors of ``narrative.runtime.tracing``.
    """

    def __init__(self, settings: GatewaySettings, interceptors: Sequence[Any] = ()) -> None:
        self._settings = settings
        targets = {
            "asr": settings.asr_target,
            "prompt": settings.prompt_target,
            "translation": settings.translation_target,
            "diffusion": settings.diffusion_target,
        }
        if settings.residency_target:
            targets["residency"] = settings.residency_target
        self._channels = {name: open_channel(target, interceptors) for name, target in targets.items()}
        self._asr: Any = asr_pb2_grpc.AsrServiceStub(self._channels["asr"])
        self._prompt: Any = prompt_pb2_grpc.PromptServiceStub(self._channels["prompt"])
        self._translation: Any = translation_pb2_grpc.TranslationServiceStub(self._channels["translation"])
        self._diffusion: Any = diffusion_pb2_grpc.DiffusionServiceStub(self._channels["diffusion"])
        self._models: dict[str, tuple[float, list[common_pb2.Model]]] = {}
        self._accepted: dict[bytes, float] = {}

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def transcribe(
        self, options: asr_pb2.TranscribeOptions, audio: AsyncIterator[bytes]
    ) -> AsyncIterator[asr_pb2.TranscribeResponse]:
        """Sends a recording, which comes in pieces of any size, and yields progress, segments and the summary.

        The service's first answer comes when a worker takes the call: from then on it has ``asr_deadline_s``, however
        long others were heard before it. That the service itself is gone is found out by the channel.

        Raises:
            DeadlineExceeded: the work takes longer.
        """

        async def requests() -> AsyncIterator[asr_pb2.TranscribeRequest]:
            yield asr_pb2.TranscribeRequest(options=options)
            async for piece in audio:
                for chunk in _chunks(piece):
                    yield asr_pb2.TranscribeRequest(chunk=chunk)

        allowed_s = self._settings.asr_deadline_s
        with rpc_errors("asr"):
            call = self._asr.Transcribe(requests(), metadata=call_metadata())
            responses = aiter(call)
            until: float | None = None
            with _cancelled_unless_heard(call):
                while True:
                    try:
                        async with asyncio.timeout_at(until):
                            response = await anext(responses, None)
                    except TimeoutError as error:
                        raise DeadlineExceeded(f"asr did not finish the transcription in {allowed_s:g} s") from error
                    if response is None:
                        return
                    until = until or asyncio.get_running_loop().time() + allowed_s
                    yield response
                    if response.WhichOneof("payload") == "summary":
                        return

    async def describe(self, request: prompt_pb2.DescribeSpeakerRequest) -> prompt_pb2.DescribeSpeakerResponse:
        with rpc_errors("prompt"):
            response: prompt_pb2.DescribeSpeakerResponse = await self._prompt.DescribeSpeaker(
                request, timeout=self._settings.prompt_deadline_s, metadata=call_metadata()
            )
            return response

    async def translate(self, texts: Sequence[str], source: str, target: str, engine: str) -> tuple[list[str], str]:
        """Translates texts one by one and says which engine did it; languages are ISO 639-1 codes.

        Many texts go in several requests, one after the other, each with a deadline of its own.
        """
        translated: list[str] = []
        used = engine
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            request = translation_pb2.TranslateRequest(
                texts=texts[start : start + _TEXTS_AT_ONCE],
                source_language=source,
                target_language=target,
                engine=engine,
            )
            with rpc_errors("translation"):
                response = await self._translation.Translate(
                    request, timeout=self._settings.translation_deadline_s, metadata=call_metadata()
                )
            translated += response.texts
            used = str(response.engine)
        return translated, used

    async def check_drawing(self, request: diffusion_pb2.GenerateImagesRequest) -> None:
        """Raises what ``generate`` would raise about the request itself; that one was accepted is kept for a while."""
        asked, now = request.SerializeToString(deterministic=True), time.monotonic()
        if now - self._accepted.get(asked, -math.inf) < self._settings.models_ttl_s:
            return
        with rpc_errors("diffusion"):
            await self._diffusion.CheckImages(
                diffusion_pb2.CheckImagesRequest(generation=request),
                timeout=self._settings.list_deadline_s,
                metadata=call_metadata(),
            )
        self._accepted = {key: at for key, at in self._accepted.items() if now - at < self._settings.models_ttl_s}
        self._accepted[asked] = now

    async def generate(self, request: diffusion_pb2.GenerateImagesRequest) -> AsyncIterator[diffusion_pb2.Step | Drawn]:
        """Draws pictures; yields every step done and every picture as soon as it is whole."""
        call = self._diffusion.GenerateImages(
            request, timeout=self._settings.diffusion_deadline_s, metadata=call_metadata()
        )
        async for item in _drawn(call, request.num_images):
            yield item

    async def edit(
        self, options: diffusion_pb2.EditOptions, pictures: Sequence[bytes]
    ) -> AsyncIterator[diffusion_pb2.Step | Drawn]:
        """Edits a picture, or the frames of a video; yields as ``generate`` does."""

        def requests() -> Iterator[diffusion_pb2.EditImagesRequest]:
            options.frame_bytes[:] = [len(picture) for picture in pictures]
            yield diffusion_pb2.EditImagesRequest(options=options)
            for picture in pictures:
                for chunk in _chunks(picture):
                    yield diffusion_pb2.EditImagesRequest(chunk=chunk)

        call = self._diffusion.EditImages(
            requests(), timeout=self._settings.diffusion_deadline_s, metadata=call_metadata()
        )
        async for item in _drawn(call):
            yield item

    async def import_adapter(self, request: diffusion_pb2.ImportAdapterRequest) -> None:
        """Has a LoRA file of the object store published as an adapter."""
        with rpc_errors("diffusion"):
            await self._diffusion.ImportAdapter(
                request, timeout=self._settings.adapter_deadline_s, metadata=call_metadata()
            )

    async def kohya_adapter(self, name: str) -> str:
        """Key in the object store of an adapter in kohya's form."""
        request = diffusion_pb2.ExportAdapterRequest(name=name, form=diffusion_pb2.ADAPTER_FORM_KOHYA)
        with rpc_errors("diffusion"):
            response = await self._diffusion.ExportAdapter(
                request, timeout=self._settings.adapter_deadline_s, metadata=call_metadata()
            )
            return str(response.object)

    async def models(self, service: str, wanted: str = "") -> list[common_pb2.Model]:
        """What a service can be asked for; an answer is kept for a while.

        Args:
            wanted: id of a model; an answer that was kept without it is not used, for the model may be new.
        """
        kept = self._models.get(service)
        is_fresh = kept is not None and time.monotonic() - kept[0] < self._settings.models_ttl_s
        if kept is not None and is_fresh and wanted in {"", *(model.id for model in kept[1])}:
            return kept[1]
        stub: Any = common_pb2_grpc.ModelServiceStub(self._channels[service])
        try:
            with rpc_errors(service):
                response = await stub.ListModels(
                    common_pb2.ListModelsRequest(), timeout=self._settings.list_deadline_s, metadata=call_metadata()
                )
        except DeadlineExceeded as error:
            # A list takes no time: a service that does not send one is down, however its connection looks.
            raise ServiceUnavailable(f"{service} does not answer", retry_after_s=1.0) from error
        models = list(response.models)
        self._models[service] = (time.monotonic(), models)
        return models

    async def residency(self) -> residency_pb2.GetStateResponse:
        """Devices and whose weights are in their memory.

        Raises:
            NotFound: models do not take turns here.
        """
        if "residency" not in self._channels:
            raise NotFound(
                "models do not take turns on a device here; for that start the residency service and set "
                "NARRATIVE_GATEWAY__RESIDENCY_TARGET and RESIDENCY_TARGET of the services"
            )
        stub: Any = residency_pb2_grpc.ResidencyServiceStub(self._channels["residency"])
        with rpc_errors("residency"):
            response: residency_pb2.GetStateResponse = await stub.GetState(
                residency_pb2.GetStateRequest(), timeout=self._settings.list_deadline_s, metadata=call_metadata()
            )
            return response

    async def missing(self) -> dict[str, str]:
        """Services that cannot be used now, each with the reason."""
        reasons = await asyncio.gather(*(self._reason(service) for service in FULL_NAMES))
        return {service: reason for service, reason in zip(FULL_NAMES, reasons, strict=True) if reason}

    async def _reason(self, service: str) -> str:
        stub: Any = health_pb2_grpc.HealthStub(self._channels[service])
        request = health_pb2.HealthCheckRequest(service=FULL_NAMES[service])
        try:
            with rpc_errors(service):
                response = await stub.Check(request, timeout=self._settings.list_deadline_s)
        except NarrativeError as error:
            return error.message
        if response.status != health_pb2.HealthCheckResponse.SERVING:
            return f"{service} is not ready: it is loading its models or shutting down"
        return ""


def _chunks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), _CHUNK_BYTES):
        yield data[start : start + _CHUNK_BYTES]


async def _drawn(call: Any, num_images: int = 0) -> AsyncIterator[diffusion_pb2.Step | Drawn]:
    """What a call that draws answers, its pictures put together.

    Args:
        num_images: after so many no more is waited for; 0 where only the end of the call says that it was the last.
    """
    parts: dict[int, bytearray] = {}
    drawn = 0
    with rpc_errors("diffusion"), _cancelled_unless_heard(call):
        async for response in call:
            if response.WhichOneof("payload") == "step":
                yield response.step
                continue
            chunk = response.chunk
            parts.setdefault(chunk.image_index, bytearray()).extend(chunk.data)
            if chunk.last:
                png = bytes(parts.pop(chunk.image_index))
                yield Drawn(chunk.image_index, png, chunk.seed, chunk.width, chunk.height)
                drawn += 1
                if drawn == num_images:
                    return


# Calls that have said all there is to hear. Their status comes a moment later, which nobody waits for; but a call that
# is thrown away before is cancelled.
_ending: set[Any] = set()


@contextmanager
def _cancelled_unless_heard(call: Any) -> Iterator[None]:
    """Cancels a call whose answer is not heard to its last message."""
    try:
        yield
    except BaseException:
        call.cancel()
        raise
    _ending.add(call)
    call.add_done_callback(_ending.discard)


def names_of(models: Iterable[common_pb2.Model], task: "common_pb2.Task") -> set[str]:
    """Ids of the models for a task."""
    return {model.id for model in models if model.task == task}
