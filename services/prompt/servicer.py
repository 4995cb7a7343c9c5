"""protobuf <-> dataclass, nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import grpc

from narrative.runtime.server import Service
from narrative.v1 import common_pb2, prompt_pb2, prompt_pb2_grpc
from services.prompt.engine import Line, Progress, PromptEngine, SpeakerScene

Context = grpc.aio.ServicerContext[object, object]


class PromptServicer(prompt_pb2_grpc.PromptServiceServicer):
    """See ``proto/narrative/v1/prompt.proto``."""

    def __init__(self, engine: PromptEngine) -> None:
        self._engine = engine

    async def NormalizeText(
        self, request: prompt_pb2.NormalizeTextRequest, context: Context
    ) -> prompt_pb2.NormalizeTextResponse:
        texts = await self._engine.normalize(list(request.texts), request.language, request.model)
        return prompt_pb2.NormalizeTextResponse(normalized_texts=texts)

    async def DescribeSpeaker(
        self, request: prompt_pb2.DescribeSpeakerRequest, context: Context
    ) -> prompt_pb2.DescribeSpeakerResponse:
        lines = _lines(request.lines)
        return _described(
            await self._engine.describe(request.speaker, lines, request.language, request.style, request.model)
        )

    async def Process(
        self, request: prompt_pb2.ProcessRequest, context: Context
    ) -> AsyncIterator[prompt_pb2.ProcessResponse]:
        lines = _lines(request.lines)
        async for item in self._engine.process(lines, request.language, request.style, request.model):
            if isinstance(item, Progress):
                progress = common_pb2.Progress(stage=item.stage, fraction=item.fraction)
                yield prompt_pb2.ProcessResponse(progress=progress)
            else:
                yield prompt_pb2.ProcessResponse(speaker=_described(item))


def service(engine: PromptEngine) -> Service:
    """What ``serve`` needs to run the prompt service."""

    def models() -> Iterable[common_pb2.Model]:
        for index, model in enumerate(engine.models()):
            yield common_pb2.Model(
                id=model.id,
                task=common_pb2.TASK_SCENE_WRITING,
                engine=model.engine,
                licence=model.licence,
                languages=model.languages,
                is_default=index == 0,
            )

    def register(server: grpc.aio.Server) -> None:
        prompt_pb2_grpc.add_PromptServiceServicer_to_server(PromptServicer(engine), server)

    return Service("prompt", "narrative.v1.PromptService", engine, register, models)


def _lines(lines: Iterable[prompt_pb2.Line]) -> list[Line]:
    return [Line(line.id, line.speaker, line.text, line.start_s, line.end_s) for line in lines]


def _described(described: SpeakerScene) -> prompt_pb2.DescribeSpeakerResponse:
    return prompt_pb2.DescribeSpeakerResponse(
        lines=[
            prompt_pb2.NormalizedLine(
                line=prompt_pb2.Line(
                    id=item.line.id,
                    speaker=item.line.speaker,
                    text=item.line.text,
                    start_s=item.line.start_s,
                    end_s=item.line.end_s,
                ),
                normalized_text=item.normalized_text,
            )
            for item in described.lines
        ],
        scene=prompt_pb2.Scene(
            speaker=described.speaker,
            text=described.text,
            scene=described.scene.scene,
            style=described.scene.style,
            details=described.scene.details,
            visual_prompt=described.visual_prompt,
        ),
    )
