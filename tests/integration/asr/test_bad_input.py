"""Every bad input is refused at once, by name, and leaves nothing behind."""

import asyncio
import io
import math
import time
import wave

import grpc
import numpy as np
import pytest

from narrative import errors
from narrative.runtime.channel import rpc_errors
from narrative.v1 import asr_pb2
from services.asr.settings import AsrSettings

from .conftest import requests, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")


def wav(samples, rate=16_000, channels=1):
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


NOISE = np.random.default_rng(0).normal(size=16_000 * 3) * 0.02
TONE = np.sin(np.arange(16_000 * 3) * 2 * np.pi * 440 / 16_000) * 0.5


async def refused(asr, error, says, data, **options):
    started = time.perf_counter()
    with pytest.raises(error, match=says) as caught:
        await asr.transcribe(data, **options)
    assert time.perf_counter() - started < 1.0
    assert list(asr.scratch.iterdir()) == []
    assert "Traceback" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b"", errors.AudioUndecodable, "talk.flac is empty"),
        (b"no audio at all " * 999, errors.AudioUndecodable, "talk.flac"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), errors.AudioUndecodable, "talk.flac"),
        (wav(NOISE)[:20], errors.AudioUndecodable, "talk.flac"),
        (wav(np.zeros(16_000)), errors.NoSpeech, "silent"),
        (wav(NOISE), errors.NoSpeech, "nobody speaks"),
        (wav(TONE), errors.NoSpeech, "nobody speaks"),
        (wav(NOISE, rate=10), errors.AudioRejected, "4000 to 192000 Hz"),
        (wav(NOISE, rate=400_000), errors.AudioRejected, "4000 to 192000 Hz"),
        (wav(NOISE, channels=64), errors.AudioRejected, "1 to 8"),
        (wav(np.zeros(301 * 4_000), rate=4_000), errors.AudioRejected, "300 seconds"),
    ],
    ids=[
        "empty",
        "text",
        "picture",
        "header only",
        "silent",
        "noise",
        "tone",
        "10 Hz",
        "400 kHz",
        "64 channels",
        "long",
    ],
)
async def test_bad_audio(asr, data, error, says):
    await refused(asr, error, says, data)


@pytest.mark.parametrize(
    ("options", "error", "field"),
    [
        ({"language": "klingon"}, errors.InvalidParameter, "language"),
        ({"model": "whisper-gigantic"}, errors.ModelNotFound, "model"),
        ({"temperature": math.nan}, errors.InvalidParameter, "temperature"),
        ({"temperature": 2.0}, errors.InvalidParameter, "temperature"),
        ({"min_speakers": 4, "max_speakers": 2}, errors.InvalidParameter, "min_speakers"),
        ({"num_speakers": 4_000_000_000}, errors.InvalidParameter, "num_speakers"),
    ],
)
async def test_bad_options(asr, options, error, field):
    assert (await refused(asr, error, None, b"never looked at", **options)).field == field


async def test_an_upload_past_the_limit(asr):
    await refused(asr, errors.PayloadTooLarge, "4194304 bytes", bytes(5 << 20))


async def test_a_long_name_is_shortened_in_messages(asr):
    error = await refused(asr, errors.AudioUndecodable, "empty", b"", filename="n" * 5000)
    assert len(error.message) < 200


@pytest.mark.parametrize("first", [asr_pb2.TranscribeRequest(chunk=b"RIFF"), asr_pb2.TranscribeRequest()])
async def test_options_must_come_first(asr, first):
    with pytest.raises(errors.InvalidParameter, match="first message must carry the options"), rpc_errors("asr"):
        await collect(asr.stub.Transcribe(iter([first])))


async def test_options_must_come(asr):
    with pytest.raises(errors.InvalidParameter, match="no message came"), rpc_errors("asr"):
        await collect(asr.stub.Transcribe(iter([])))


async def test_options_must_come_once(asr):
    again = [*requests(b""), *requests(b"")]
    with pytest.raises(errors.InvalidParameter, match="only the first message"), rpc_errors("asr"):
        await collect(asr.stub.Transcribe(iter(again)))


async def test_a_caller_that_goes_away_stops_the_work(asr, speech):
    call = asr.stub.Transcribe(requests((speech / "mixed3.flac").read_bytes()))
    async for response in call:
        if response.WhichOneof("payload") == "segment":
            break
    call.cancel()
    started = time.perf_counter()
    # There is one worker: the next call is served only when the cancelled one has stopped.
    await refused_eventually(asr)
    assert time.perf_counter() - started < 10.0
    while list(asr.scratch.iterdir()):
        await asyncio.sleep(0.01)


async def refused_eventually(asr):
    with pytest.raises(errors.AudioUndecodable):
        await asr.transcribe(b"not audio")


async def test_a_full_queue_says_when_to_come_back(tmp_path):
    settings = AsrSettings(
        port=0, engine="fake", fake_service_s=0.5, max_workers=1, max_queue=0, drain_s=1, scratch_dir=tmp_path
    )
    async with serving(settings) as fake:
        calls = [fake.transcribe(b"x") for _ in range(3)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(result, errors.QueueFull) for result in results) == 2
    assert all(result.retry_after_s >= 1 for result in results if isinstance(result, errors.QueueFull))
    done = next(result for result in results if not isinstance(result, BaseException))
    assert done.summary.transcription_model == "fake"
    assert len(done.segments) == 3


async def test_missing_weights_say_how_to_fetch_them(tmp_path):
    settings = AsrSettings(port=0, scratch_dir=tmp_path)
    settings.common.models_dir = tmp_path / "none"
    with pytest.raises(errors.WeightsMissing, match="narrate models pull whisper-base"):
        async with serving(settings):
            pass


async def collect(call: grpc.aio.StreamStreamCall) -> list[object]:
    return [response async for response in call]
