"""The speech service on a real port with real small weights, and a client for it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from narrative.runtime.channel import open_channel, rpc_errors
from narrative.runtime.server import ServiceServer
from narrative.v1 import asr_pb2, asr_pb2_grpc
from services.asr.__main__ import build_service
from services.asr.settings import AsrSettings

CHUNK_BYTES = 256 << 10


@dataclass
class Transcription:
    """What came back over one call."""

    progress: list[tuple[str, float]] = field(default_factory=list)
    segments: list[asr_pb2.Segment] = field(default_factory=list)
    summary: asr_pb2.TranscriptSummary | None = None

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)


class Client:
    """Sends a file and gathers the answer."""

    def __init__(self, port: int, scratch: Path) -> None:
        self.channel = open_channel(f"127.0.0.1:{port}")
        self.stub = asr_pb2_grpc.AsrServiceStub(self.channel)
        self.scratch = scratch

    async def transcribe(self, data: bytes, **options: object) -> Transcription:
        result = Transcription()
        with rpc_errors("asr"):
            async for response in self.stub.Transcribe(requests(data, **options), timeout=120):
                match response.WhichOneof("payload"):
                    case "progress":
                        result.progress.append((response.progress.stage, response.progress.fraction))
                    case "segment":
                        result.segments.append(response.segment)
                    case "summary":
                        assert result.summary is None
                        result.summary = response.summary
        return result


def requests(data: bytes, **options: object) -> Iterator[asr_pb2.TranscribeRequest]:
    yield asr_pb2.TranscribeRequest(options=asr_pb2.TranscribeOptions(**{"filename": "talk.flac", **options}))
    for start in range(0, len(data), CHUNK_BYTES):
        yield asr_pb2.TranscribeRequest(chunk=data[start : start + CHUNK_BYTES])


@asynccontextmanager
async def serving(settings: AsrSettings) -> AsyncIterator[Client]:
    server = ServiceServer(build_service(settings), settings)
    port = await server.start()
    client = Client(port, settings.scratch_dir)
    try:
        await server.load()
        yield client
    finally:
        await client.channel.close()
        await server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def asr(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    settings = AsrSettings(
        port=0,
        cpu_threads=2,
        drain_s=1,
        max_duration_s=300,
        max_upload_bytes=4 << 20,
        scratch_dir=tmp_path_factory.mktemp("scratch"),
    )
    settings.common.models_dir = models_dir
    async with serving(settings) as client:
        yield client
