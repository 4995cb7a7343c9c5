"""The real engines on a declared device whose budget forces them to take turns: the same words, the same pictures."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import pytest
from faster_whisper.audio import decode_audio

import services.asr.whisper
from narrative.errors import OutOfMemory
from narrative.runtime.channel import open_channel
from narrative.runtime.server import Service, ServiceServer
from narrative.settings import ServiceSettings
from narrative.v1 import asr_pb2, asr_pb2_grpc, diffusion_pb2, diffusion_pb2_grpc
from services.asr.__main__ import build_service
from services.asr.settings import AsrSettings
from services.asr.whisper import Whisper
from services.asr.whisper_text import Stretch
from services.diffusion.__main__ import make_service as make_diffusion
from services.diffusion.settings import DiffusionSettings
from services.residency.__main__ import make_service as make_residency
from services.residency.coordinator import Coordinator
from services.residency.settings import ResidencySettings
from tests.shortage import shortage

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

MIB = 1 << 20
# Whisper base takes 76 MiB and Storybook 25: with their working memory they do not fit together.
BUDGET = 150 * MIB
WORKING = 60 * MIB


def first_seconds(path: Path, seconds: int) -> bytes:
    """A WAV file of the beginning of a recording."""
    samples = decode_audio(str(path))[: seconds * 16_000]
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes((samples * 32767).astype("<i2").tobytes())
    return file.getvalue()


@asynccontextmanager
async def running(service: Service, settings: ServiceSettings) -> AsyncIterator[str]:
    server = ServiceServer(service, settings)
    target = f"127.0.0.1:{await server.start()}"
    await server.load()
    try:
        yield target
    finally:
        await server.stop()


async def transcribe(target: str, recording: bytes, *, speakers: bool = False) -> list[str]:
    async def requests() -> AsyncIterator[asr_pb2.TranscribeRequest]:
        options = asr_pb2.TranscribeOptions(filename="talk.flac", skip_diarization=not speakers)
        yield asr_pb2.TranscribeRequest(options=options)
        for start in range(0, len(recording), MIB // 2):
            yield asr_pb2.TranscribeRequest(chunk=recording[start : start + MIB // 2])

    async with open_channel(target) as channel:
        responses = asr_pb2_grpc.AsrServiceStub(channel).Transcribe(requests(), timeout=120)
        segments = [one.segment async for one in responses if one.HasField("segment")]
        return [f"{segment.speaker} {segment.text}" for segment in segments]


async def draw(target: str, prompt: str, steps: int = 4) -> bytes:
    request = diffusion_pb2.GenerateImagesRequest(prompt=prompt, seed=7, num_inference_steps=steps)
    async with open_channel(target) as channel:
        responses = diffusion_pb2_grpc.DiffusionServiceStub(channel).GenerateImages(request, timeout=120)
        return b"".join([one.chunk.data async for one in responses if one.HasField("chunk")])


async def story(asr: str, diffusion: str, recording: bytes) -> tuple[list[str], list[bytes]]:
    """A transcription, then pictures, then both at once."""
    words = await transcribe(asr, recording)
    pictures = [await draw(diffusion, prompt) for prompt in ("a boat on the sea", "a forest at night")]
    again, picture = await asyncio.gather(transcribe(asr, recording), draw(diffusion, "a house in the snow"))
    return words + again, [*pictures, picture]


@asynccontextmanager
async def engines(**leasing: Any) -> AsyncIterator[tuple[str, str]]:
    """The speech and the diffusion service, and where they listen."""
    asr_settings = AsrSettings(port=0, drain_s=1.0, cpu_threads=2, **leasing)
    diffusion_settings = DiffusionSettings(port=0, drain_s=1.0, num_threads=2, **leasing)
    async with (
        running(build_service(asr_settings), asr_settings) as asr,
        running(make_diffusion(diffusion_settings), diffusion_settings) as diffusion,
    ):
        yield asr, diffusion


@asynccontextmanager
async def taking_turns() -> AsyncIterator[tuple[str, str, Coordinator]]:
    """The same on a declared device that holds only one of the two models."""
    settings = ResidencySettings(port=0, devices={"host:0": BUDGET}, recovery_s=0.1, min_resident_s=0.0, drain_s=0.1)
    service = make_residency(settings)
    assert isinstance(service.engine, Coordinator)
    async with running(service, settings) as residency:
        async with engines(residency_target=residency, residency_working_bytes=WORKING) as (asr, diffusion):
            yield asr, diffusion, service.engine
        assert service.engine.snapshot().models == (), "both have said good-bye"


async def test_turns_on_one_device_change_no_word_and_no_pixel(models_dir: Path, speech: Path) -> None:
    recording = first_seconds(speech / "librivox.flac", 5)
    async with engines() as (asr, diffusion):
        expected = await story(asr, diffusion, recording)

    async with taking_turns() as (asr, diffusion, coordinator):
        got = await story(asr, diffusion, recording)
        snapshot = coordinator.snapshot()
        assert snapshot.booked_bytes("host:0") <= BUDGET
        assert sum(model.num_bytes for model in snapshot.models) > BUDGET, "nobody had to leave"
    assert got == expected


async def test_the_diarizer_takes_turns_with_the_speech_model(models_dir: Path, speech: Path) -> None:
    recording = first_seconds(speech / "mixed3.flac", 12)
    settings = AsrSettings(port=0, cpu_threads=2)
    async with running(build_service(settings), settings) as asr:
        expected = await transcribe(asr, recording, speakers=True)
    assert len({line.split()[0] for line in expected}) > 1

    residency_settings = ResidencySettings(
        port=0, devices={"host:0": BUDGET}, recovery_s=0.0, min_resident_s=0.0, drain_s=0.1
    )
    service = make_residency(residency_settings)
    assert isinstance(service.engine, Coordinator)
    async with running(service, residency_settings) as target:
        # A declared device stands in for the GPU: leases name it, and nothing asks for CUDA.
        leasing = {"device": "cuda", "residency_target": target, "residency_working_bytes": WORKING}
        settings = AsrSettings(port=0, cpu_threads=2, diarizer_working_bytes=WORKING, **leasing)
        async with running(build_service(settings), settings) as asr:
            assert await transcribe(asr, recording, speakers=True) == expected
            snapshot = service.engine.snapshot()
            assert {model.key.model for model in snapshot.models} == {"whisper-base", "ge2e"}
            assert sum(model.num_bytes for model in snapshot.models) > BUDGET, "nobody had to leave"


def make_whisper(models_dir: Path) -> Whisper:
    options = {"compute_type": "int8", "cpu_threads": 2, "workers": 1, "beam_size": 1, "min_context_s": 10.0}
    return Whisper(models_dir / "whisper-base", **options)


SILENCE = [Stretch(np.zeros(16_000, np.float32), "en")]


def test_a_speech_model_that_does_not_wake_is_read_anew(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whisper = make_whisper(models_dir)
    whisper.load("host:0")
    whisper.offload()

    def broken(self: object) -> None:
        raise RuntimeError("the copy in host memory is lost")

    monkeypatch.setattr(ctranslate2.models.Whisper, "load_model", broken)
    whisper.load("host:0")
    assert whisper.transcribe(SILENCE, temperature=0.0)


def test_a_speech_model_tries_twice_to_wake_and_to_work(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whisper = make_whisper(models_dir)
    waking = shortage(monkeypatch, ctranslate2.models.Whisper, "load_model")
    working = shortage(monkeypatch, ctranslate2.models.Whisper, "encode")
    reading = shortage(monkeypatch, services.asr.whisper, "WhisperModel")

    reading.failures = working.failures = 1
    whisper.load("host:0")
    whisper.offload()
    waking.failures = working.failures = 1
    whisper.load("host:0")
    assert whisper.transcribe(SILENCE, temperature=0.0)
    working.failures = 2
    with pytest.raises(OutOfMemory, match="no room to transcribe"):
        whisper.transcribe(SILENCE, temperature=0.0)
    whisper.offload()
    waking.failures = 2
    with pytest.raises(OutOfMemory, match="host:0 has no room for whisper-base"):
        whisper.load("host:0")
    whisper.load("host:0")
    assert whisper.transcribe(SILENCE, temperature=0.0)


def test_a_speech_model_that_cannot_warm_up_is_not_on_the_device(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whisper = make_whisper(models_dir)
    working = shortage(monkeypatch, ctranslate2.models.Whisper, "encode")
    working.failures = 2
    with pytest.raises(OutOfMemory):
        whisper.load("host:0")
    assert not whisper._model.model.model_is_loaded
    whisper.load("host:0")
    assert whisper.transcribe(SILENCE, temperature=0.0)


def test_the_weights_of_storybook_come_back_bit_for_bit(tmp_path: Path) -> None:
    import torch
    from diffusers import UNet2DConditionModel

    from narrative.catalogue import Catalogue
    from narrative.settings import CommonSettings
    from services.diffusion.packed_weights import PackedWeights

    folder = Catalogue().resolve("storybook", CommonSettings().models_dir)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    for host in ("memory", "disk"):
        weights = PackedWeights([unet], host, tmp_path)
        for _ in range(2):
            weights.load("host:0")
            weights.offload()
        weights.load("host:0")
        assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())
        weights.close()
