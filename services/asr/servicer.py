"""AsrService: takes recordings in, hands out what the engine makes of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from narrative.errors import InvalidParameter, NarrativeError
from narrative.runtime.executor import BoundedExecutor
from narrative.v1 import asr_pb2, asr_pb2_grpc, common_pb2
from services.asr.engine import AsrEngine, TranscribeOptions
from services.asr.messages import read_options, write_event, write_model
from services.asr.settings import AsrSettings
from services.asr.upload import Upload

_DISCARD_S = 5.0


class AsrServicer(asr_pb2_grpc.AsrServiceServicer):
    """Takes the upload in on the event loop and leaves the work to a bounded executor."""

    def __init__(self, engine: AsrEngine, settings: AsrSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._executor = BoundedExecutor("asr", settings.max_workers, settings.max_queue)

    async def Transcribe(
        self,
        request_iterator: AsyncIterator[asr_pb2.TranscribeRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[asr_pb2.TranscribeResponse]:
        with Upload(self._settings.scratch_dir, self._settings.max_upload_bytes) as upload:
            try:
                options = await self._receive(request_iterator, upload)
            except NarrativeError:
                await _discard(request_iterator)
                raise
            async for event in self._executor.stream(
                lambda cancelled: self._engine.transcribe(upload.path, options, cancelled)
            ):
                yield write_event(event)

    async def _receive(
        self, request_iterator: AsyncIterator[asr_pb2.TranscribeRequest], upload: Upload
    ) -> TranscribeOptions:
        options: TranscribeOptions | None = None
        async for request in request_iterator:
            kind = request.WhichOneof("payload")
            if options is None:
                if kind != "options":
                    raise InvalidParameter("the first message must carry the options", field="options")
                options = read_options(request.options)
                await asyncio.to_thread(self._engine.check, options)
            elif kind == "chunk":
                upload.append(request.chunk)
            else:
                raise InvalidParameter(
                    "only the first message carries options; chunks of the file follow", field="chunk"
                )
        if options is None:
            raise InvalidParameter("no message came; the first must carry the options", field="options")
        return options


async def _discard(request_iterator: AsyncIterator[asr_pb2.TranscribeRequest]) -> None:
    """Lets a client finish sending: gRPC's Python client takes an answer in the middle of it for a broken stream."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_S):
            async for _ in request_iterator:
                pass


def list_models(engine: AsrEngine) -> list[common_pb2.Model]:
    """What ``ListModels`` answers."""
    return [write_model(info) for info in engine.models()]
