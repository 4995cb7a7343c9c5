"""The gateway's clock on a transcription, before a real speech service with one worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.clients import Services
from gateway.settings import GatewaySettings
from narrative.errors import DeadlineExceeded
from narrative.runtime.server import ServiceServer
from narrative.settings import CommonSettings
from narrative.v1 import asr_pb2
from services.asr.__main__ import build_service
from services.asr.settings import AsrSettings


@asynccontextmanager
async def hearing(folder: Path, work_s: float, deadline_s: float) -> AsyncIterator[Services]:
    """A client of a speech service whose one worker takes ``work_s`` for a recording."""
    settings = AsrSettings(port=0, engine="fake", fake_service_s=work_s, drain_s=0.0, scratch_dir=folder)
    server = ServiceServer(build_service(settings), settings)
    port = await server.start()
    await server.load()
    services = Services(
        GatewaySettings(
            common=CommonSettings(data_dir=folder), asr_target=f"127.0.0.1:{port}", asr_deadline_s=deadline_s
        )
    )
    try:
        yield services
    finally:
        await services.close()
        await server.stop()


async def transcribe(services: Services) -> int:
    async def audio() -> AsyncIterator[bytes]:
        yield b"talk"

    answers = [answer async for answer in services.transcribe(asr_pb2.TranscribeOptions(), audio())]
    return sum(answer.HasField("segment") for answer in answers)


async def test_the_wait_behind_other_recordings_does_not_count(tmp_path: Path) -> None:
    async with hearing(tmp_path, work_s=1.0, deadline_s=2.0) as services:
        assert await asyncio.gather(*(transcribe(services) for _ in range(4))) == [3] * 4


async def test_work_that_takes_too_long_ends_and_makes_room(tmp_path: Path) -> None:
    async with hearing(tmp_path, work_s=60.0, deadline_s=0.3) as services:
        started = time.monotonic()
        for _ in range(2):
            with pytest.raises(DeadlineExceeded, match=r"asr did not finish the transcription in 0\.3 s"):
                await transcribe(services)
        assert time.monotonic() - started < 20


async def test_a_caller_that_goes_away_makes_room(tmp_path: Path) -> None:
    async with hearing(tmp_path, work_s=60.0, deadline_s=100.0) as services:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(transcribe(services), 0.3)
        assert await asyncio.wait_for(_first(services), 20)


async def _first(services: Services) -> bool:
    """Whether a worker has taken a call."""

    async def audio() -> AsyncIterator[bytes]:
        yield b"talk"

    async for answer in services.transcribe(asr_pb2.TranscribeOptions(), audio()):
        return answer.HasField("progress")
    return False
