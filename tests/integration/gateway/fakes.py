"""The four services with engines that wait instead of working; real gRPC servers on real ports.

Every fake answers as its contract says, after a time that a test sets, counts its calls, and can be told to fail.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from narrative.errors import NarrativeError
from narrative.runtime.server import Service, ServiceServer
from narrative.settings import ServiceSettings
from narrative.v1 import (
    asr_pb2,
    asr_pb2_grpc,
    common_pb2,
    diffusion_pb2,
    diffusion_pb2_grpc,
    prompt_pb2,
    prompt_pb2_grpc,
    translation_pb2,
    translation_pb2_grpc,
)


def png(width: int = 8, height: int = 8, shade: int = 0) -> bytes:
    """A real PNG of one grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + bytes([shade % 256]) * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@dataclass
class Script:
    """What the fakes do; tests change it while they run.

    Attributes:
        lines: (speaker, text, language) of the transcript, in order.
        delay_s: seconds each call takes, by service.
        fail: error that the next calls of a service raise.
        hold: services that do not answer before the event is set.
    """

    lines: list[tuple[str, str, str]] = field(
        default_factory=lambda: [
            ("SPEAKER_00", "a red barn stands on the hill", "en"),
            ("SPEAKER_01", "the sea is green and calm", "en"),
            ("SPEAKER_00", "a horse looks out of the door", "en"),
        ]
    )
    prompt_languages: tuple[str, ...] = ("en",)
    delay_s: dict[str, float] = field(default_factory=dict)
    fail: dict[str, NarrativeError] = field(default_factory=dict)
    hold: dict[str, asyncio.Event] = field(default_factory=dict)
    steps: int = 2
    calls: Counter[str] = field(default_factory=Counter)
    pictures: Counter[int] = field(default_factory=Counter)
    requests: list[Any] = field(default_factory=list)
    cancelled: Counter[str] = field(default_factory=Counter)
    edited: list[tuple[Any, bytes]] = field(default_factory=list)

    request_ids: list[str] = field(default_factory=list)

    def reset(self) -> None:
        """Forgets what a test has told it, and what it was asked."""
        vars(self).update(vars(Script()))

    async def work(self, service: str, request: Any = None) -> None:
        self.calls[service] += 1
        self.request_ids.append(structlog.contextvars.get_contextvars().get("request_id", ""))
        if request is not None:
            self.requests.append(request)
        if service in self.fail:
            raise self.fail[service]
        try:
            if service in self.hold:
                await self.hold[service].wait()
            if delay_s := self.delay_s.get(service, 0.0):
                await asyncio.sleep(delay_s)
        except asyncio.CancelledError:
            self.cancelled[service] += 1
            raise

    @asynccontextmanager
    async def working(self, service: str, request: Any) -> AsyncIterator[None]:
        """Works as an engine does: on a thread of its own, while the body tells how far it has got."""
        work = asyncio.create_task(self.work(service, request))
        try:
            yield
            await work
        finally:
            work.cancel()


class FakeAsr(asr_pb2_grpc.AsrServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    async def Transcribe(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        options, received = None, 0
        async for request in request_iterator:
            if request.WhichOneof("payload") == "options":
                options = request.options
            else:
                received += len(request.chunk)
        assert options is not None
        assert received > 0
        async with self.script.working("asr", options):
            yield asr_pb2.TranscribeResponse(progress=common_pb2.Progress(stage="transcription", fraction=0.5))
        for number, (speaker, text, language) in enumerate(self.script.lines):
            segment = asr_pb2.Segment(
                id=number,
                speaker=speaker,
                start_s=number * 2.0,
                end_s=number * 2.0 + 1.5,
                text=text,
                language=language,
                confidence=0.9,
            )
            if options.translate_to_english and language != "en":
                segment.english_text = f"whispered {text}"
            if options.word_timestamps:
                segment.words.add(text=text.split()[0], start_s=number * 2.0, end_s=number * 2.0 + 0.3, probability=0.8)
            yield asr_pb2.TranscribeResponse(segment=segment)
        speakers = list(dict.fromkeys(speaker for speaker, _, _ in self.script.lines))
        language = self.script.lines[0][2] if self.script.lines else ""
        yield asr_pb2.TranscribeResponse(
            summary=asr_pb2.TranscriptSummary(
                duration_s=2.0 * len(self.script.lines),
                speakers=speakers,
                language=language,
                transcription_model="fake-asr",
                diarization_model="fake-diarization",
            )
        )


class FakePrompt(prompt_pb2_grpc.PromptServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    async def DescribeSpeaker(self, request: Any, context: Any) -> Any:
        await self.script.work("prompt", request)
        text = " ".join(line.text.capitalize() + "." for line in request.lines)
        scene = prompt_pb2.Scene(
            speaker=request.speaker,
            text=text,
            scene=request.lines[0].text,
            style=request.style or "watercolour",
            details=["evening light"],
            visual_prompt=f"{request.lines[0].text}, evening light",
        )
        lines = [
            prompt_pb2.NormalizedLine(line=line, normalized_text=line.text.capitalize() + ".") for line in request.lines
        ]
        return prompt_pb2.DescribeSpeakerResponse(lines=lines, scene=scene)


class FakeTranslation(translation_pb2_grpc.TranslationServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    async def Translate(self, request: Any, context: Any) -> Any:
        await self.script.work("translation", request)
        texts = [f"{request.target_language}<{text}>" for text in request.texts]
        return translation_pb2.TranslateResponse(texts=texts, engine=request.engine or "gloss")


class FakeDiffusion(diffusion_pb2_grpc.DiffusionServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    async def CheckImages(self, request: Any, context: Any) -> Any:
        return diffusion_pb2.CheckImagesResponse()

    async def GenerateImages(self, request: Any, context: Any) -> AsyncIterator[Any]:
        # As of a real engine, whose steps fill its time but for the decoding of the picture.
        step_s = self.script.delay_s.get("diffusion", 0.0) / (self.script.steps + 1)
        for index in range(max(1, request.num_images)):
            seed = request.seed + index if request.HasField("seed") else 7
            data = png(request.width or 8, request.height or 8, seed)
            async with self.script.working("diffusion", request):
                for step in range(1, self.script.steps + 1):
                    await asyncio.sleep(step_s)
                    done = diffusion_pb2.Step(image_index=index, step=step, num_steps=self.script.steps)
                    yield diffusion_pb2.GenerateImagesResponse(step=done)
            self.script.pictures[seed] += 1
            half = len(data) // 2
            for part, last in ((data[:half], False), (data[half:], True)):
                chunk = diffusion_pb2.ImageChunk(
                    image_index=index,
                    data=part,
                    last=last,
                    seed=seed,
                    width=request.width or 8,
                    height=request.height or 8,
                    batch_size=1,
                )
                yield diffusion_pb2.GenerateImagesResponse(chunk=chunk)

    async def EditImages(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        options, received = None, bytearray()
        async for request in request_iterator:
            if request.HasField("options"):
                options = request.options
            received += request.chunk
        assert options is not None
        await self.script.work("diffusion", options)
        self.script.edited.append((options, bytes(received)))
        async for response in self.GenerateImages(options.generation, context):
            yield diffusion_pb2.EditImagesResponse(
                **{name: getattr(response, name) for name in ("step", "chunk") if response.HasField(name)}
            )


class _NoEngine:
    def load(self) -> None: ...

    def close(self) -> None: ...


_REGISTER = {
    "asr": (asr_pb2_grpc.add_AsrServiceServicer_to_server, FakeAsr, "narrative.v1.AsrService"),
    "prompt": (prompt_pb2_grpc.add_PromptServiceServicer_to_server, FakePrompt, "narrative.v1.PromptService"),
    "translation": (
        translation_pb2_grpc.add_TranslationServiceServicer_to_server,
        FakeTranslation,
        "narrative.v1.TranslationService",
    ),
    "diffusion": (
        diffusion_pb2_grpc.add_DiffusionServiceServicer_to_server,
        FakeDiffusion,
        "narrative.v1.DiffusionService",
    ),
}


def _models(service: str, script: Script) -> list[common_pb2.Model]:
    listed = {
        "asr": [common_pb2.Model(id="fake-asr", task="TASK_TRANSCRIPTION", languages=["en", "ru"], is_default=True)],
        "prompt": [
            common_pb2.Model(
                id="fake-llm", task="TASK_SCENE_WRITING", languages=script.prompt_languages, is_default=True
            )
        ],
        "translation": [common_pb2.Model(id="gloss", task="TASK_TRANSLATION", is_default=True)],
        "diffusion": [common_pb2.Model(id="fake-painter", task="TASK_TEXT_TO_IMAGE", is_default=True)],
    }
    return listed[service]


@dataclass
class Ensemble:
    """The running fakes.

    Attributes:
        ports: where each service listens.
    """

    script: Script
    ports: dict[str, int]
    servers: dict[str, ServiceServer]

    @property
    def targets(self) -> dict[str, str]:
        return {f"{name}_target": f"127.0.0.1:{port}" for name, port in self.ports.items()}

    async def stop(self, service: str) -> None:
        await self.servers.pop(service).stop()

    async def start(self, service: str) -> None:
        """Starts a service, on the port that it had before."""
        register, servicer, full_name = _REGISTER[service]
        settings = ServiceSettings(port=self.ports.get(service, 0), drain_s=0.0)
        server = ServiceServer(
            Service(
                name=service,
                full_name=full_name,
                engine=_NoEngine(),
                register=lambda grpc_server: register(servicer(self.script), grpc_server),
                models=lambda: _models(service, self.script),
            ),
            settings,
        )
        self.ports[service] = await server.start()
        await server.load()
        self.servers[service] = server


@asynccontextmanager
async def ensemble(script: Script | None = None) -> AsyncIterator[Ensemble]:
    """Runs all four fakes."""
    running = Ensemble(script or Script(), {}, {})
    async with AsyncExitStack() as stack:
        for service in _REGISTER:
            await running.start(service)

        async def stop_all() -> None:
            for service in list(running.servers):
                await running.stop(service)

        stack.push_async_callback(stop_all)
        yield running
