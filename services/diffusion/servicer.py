"""DiffusionService: takes requests in, hands out what the engine draws."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

import grpc

from narrative.errors import InvalidInput, InvalidParameter, PayloadTooLarge
from narrative.runtime.executor import BoundedExecutor
from narrative.v1 import common_pb2, diffusion_pb2, diffusion_pb2_grpc
from services.diffusion.engine import AdapterFile, DiffusionEngine, Event, Finished, Image, ImageRequest, Step
from services.diffusion.messages import read_options, read_request, write_chunks, write_step

CHUNK_BYTES = 256 * 1024
DISCARD_S = 1.0
_TASKS = {
    "text-to-image": common_pb2.TASK_TEXT_TO_IMAGE,
    "image-editing": common_pb2.TASK_IMAGE_EDITING,
}


class DiffusionServicer(diffusion_pb2_grpc.DiffusionServiceServicer):
    """Args:
    max_upload_bytes: largest picture file to edit.
    """

    def __init__(self, engine: DiffusionEngine, max_upload_bytes: int) -> None:
        self._engine = engine
        self._max_upload_bytes = max_upload_bytes
        # A LoRA file may take a gigabyte of memory while it is looked at.
        self._exchange = BoundedExecutor("diffusion-adapters", 1, 8)

    async def CheckImages(
        self,
        request: diffusion_pb2.CheckImagesRequest,
        context: grpc.aio.ServicerContext[diffusion_pb2.CheckImagesRequest, diffusion_pb2.CheckImagesResponse],
    ) -> diffusion_pb2.CheckImagesResponse:
        await asyncio.to_thread(self._engine.check, read_request(request.generation))
        return diffusion_pb2.CheckImagesResponse()

    async def GenerateImages(
        self,
        request: diffusion_pb2.GenerateImagesRequest,
        context: grpc.aio.ServicerContext[
            diffusion_pb2.GenerateImagesRequest, AsyncIterator[diffusion_pb2.GenerateImagesResponse]
        ],
    ) -> AsyncIterator[diffusion_pb2.GenerateImagesResponse]:
        async with contextlib.aclosing(self._events(read_request(request))) as events:
            async for event in events:
                if isinstance(event, Step):
                    yield diffusion_pb2.GenerateImagesResponse(step=write_step(event))
                else:
                    for chunk in write_chunks(event, CHUNK_BYTES):
                        yield diffusion_pb2.GenerateImagesResponse(chunk=chunk)

    async def EditImages(
        self,
        request_iterator: AsyncIterator[diffusion_pb2.EditImagesRequest],
        context: grpc.aio.ServicerContext[
            AsyncIterator[diffusion_pb2.EditImagesRequest], AsyncIterator[diffusion_pb2.EditImagesResponse]
        ],
    ) -> AsyncIterator[diffusion_pb2.EditImagesResponse]:
        try:
            request = await self._receive(request_iterator)
        except InvalidInput:
            await _discard(request_iterator)
            raise
        async with contextlib.aclosing(self._events(request)) as events:
            async for event in events:
                if isinstance(event, Step):
                    yield diffusion_pb2.EditImagesResponse(step=write_step(event))
                else:
                    for chunk in write_chunks(event, CHUNK_BYTES):
                        yield diffusion_pb2.EditImagesResponse(chunk=chunk)

    async def ImportAdapter(
        self,
        request: diffusion_pb2.ImportAdapterRequest,
        context: grpc.aio.ServicerContext[diffusion_pb2.ImportAdapterRequest, diffusion_pb2.ImportAdapterResponse],
    ) -> diffusion_pb2.ImportAdapterResponse:
        asked = AdapterFile(
            request.name,
            request.object,
            request.base,
            request.alpha if request.HasField("alpha") else None,
            request.trigger_word,
            request.licence,
        )
        await self._exchange.run(lambda: self._engine.publish_adapter(asked))
        return diffusion_pb2.ImportAdapterResponse()

    async def ExportAdapter(
        self,
        request: diffusion_pb2.ExportAdapterRequest,
        context: grpc.aio.ServicerContext[diffusion_pb2.ExportAdapterRequest, diffusion_pb2.ExportAdapterResponse],
    ) -> diffusion_pb2.ExportAdapterResponse:
        if request.form != diffusion_pb2.ADAPTER_FORM_KOHYA:
            raise InvalidParameter("form: ADAPTER_FORM_KOHYA is accepted", field="form")
        key = await self._exchange.run(lambda: self._engine.kohya_adapter(request.name))
        return diffusion_pb2.ExportAdapterResponse(object=key)

    async def _receive(self, messages: AsyncIterator[diffusion_pb2.EditImagesRequest]) -> ImageRequest:
        options: diffusion_pb2.EditOptions | None = None
        source = bytearray()
        async for message in messages:
            if message.HasField("options"):
                if options is not None:
                    raise InvalidInput("options came twice; only the first message carries them", field="options")
                options = message.options
            elif options is None:
                raise InvalidInput("the first message must carry options", field="options")
            else:
                source += message.chunk
            if len(source) > self._max_upload_bytes:
                raise PayloadTooLarge(
                    f"the picture is larger than the {self._max_upload_bytes} bytes accepted", field="chunk"
                )
        if options is None:
            raise InvalidInput("the call carried no message; the first must carry options", field="options")
        return read_options(options, bytes(source))

    async def _events(self, request: ImageRequest) -> AsyncGenerator[Step | Image, None]:
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def emit(event: Event) -> None:
            # The loop is closed when the process stops in the middle of a call.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(events.put_nowait, event)

        # Checking a picture to edit decodes it, which would hold up the event loop.
        submitted = asyncio.ensure_future(asyncio.to_thread(self._engine.submit, request, emit))
        try:
            await asyncio.shield(submitted)
            while not isinstance(event := await events.get(), Finished):
                yield event
            if event.error is not None:
                raise event.error
        finally:
            submitted.add_done_callback(lambda done: None if done.exception() else done.result().cancel())


async def _discard(messages: AsyncIterator[diffusion_pb2.EditImagesRequest]) -> None:
    """Lets a client finish sending: it takes an answer in the middle of that for a broken stream."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_S):
            async for _ in messages:
                pass


def models(engine: DiffusionEngine) -> Iterator[common_pb2.Model]:
    """The engine's models as messages."""
    for model in engine.models():
        yield common_pb2.Model(
            id=model.id,
            task=_TASKS[model.task],
            engine=model.engine,
            licence=model.licence,
            languages=["en"],
            is_default=model.is_default,
        )
