"""Decoding: formats, limits, and files that lie. PyAV and files only, no weights."""

import io
import struct
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from narrative.errors import AudioRejected, AudioUndecodable, Cancelled
from services.asr.decode import DecodeLimits, decode
from services.asr.recording import Recording

LIMITS = DecodeLimits(max_duration_s=60, min_sample_rate_hz=4_000, max_sample_rate_hz=192_000, max_channels=8)


def wav(seconds=1.0, rate=16_000, channels=1, claimed_bytes=None, level=0.1):
    random = np.random.default_rng(0)
    samples = (random.normal(size=round(seconds * rate) * channels) * level * 32767).astype("<i2").tobytes()
    claimed = len(samples) if claimed_bytes is None else claimed_bytes
    shape = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * channels * 2, channels * 2, 16)
    head = b"RIFF" + struct.pack("<I", min(claimed + 36, 2**32 - 1)) + b"WAVEfmt " + shape
    return head + b"data" + struct.pack("<I", claimed) + samples


def encode(container, codec, seconds=3.0, rate=48_000):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        tone = np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * 440 / rate)[None] * 0.3
        frame = av.AudioFrame.from_ndarray(tone.astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def run(tmp_path, data, limits=LIMITS, cancelled=None):
    path = tmp_path / "upload"
    path.write_bytes(data)
    with Recording(tmp_path) as recording:
        for share in decode(path, "talk.wav", recording, limits, cancelled or threading.Event()):
            assert 0 <= share <= 1
        audio = recording.read(0, recording.samples)
    assert [entry.name for entry in tmp_path.iterdir()] == ["upload"]
    return audio


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp3", "libmp3lame"),
        ("ipod", "aac"),
        ("mp4", "aac"),
        ("ogg", "libopus"),
        ("webm", "libopus"),
        ("matroska", "aac"),
    ],
)
def test_any_container(tmp_path, container, codec):
    audio = run(tmp_path, encode(container, codec))
    assert audio.size == pytest.approx(3.0 * 16_000, rel=0.03)
    spectrum = np.abs(np.fft.rfft(audio[8_000:24_000]))
    assert np.argmax(spectrum) == pytest.approx(440, abs=2)


def test_the_sound_of_a_video(tmp_path):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        video, sound = out.add_stream("mpeg4", rate=10), out.add_stream("aac", rate=16_000)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        for _ in range(10):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.full((1, 16_000), 0.2, np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        out.mux(sound.encode(frame))
        for stream in (video, sound):
            out.mux(stream.encode(None))
    assert run(tmp_path, buffer.getvalue()).size == pytest.approx(16_000, rel=0.1)


def test_stereo_becomes_the_mean_of_both_sides(tmp_path):
    left_right = np.stack([np.full(16_000, 8_000), np.zeros(16_000)], 1).astype("<i2").tobytes()
    head = wav(0.0, channels=2)[:40] + struct.pack("<I", len(left_right))
    audio = run(tmp_path, head + left_right)
    assert audio[4_000:12_000].mean() == pytest.approx(4_000 / 32_768, rel=0.01)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"hello " * 1000, "holds no sound|not audio"),
        (bytes(range(256)) * 200, "holds no sound|not audio"),
        (wav()[:30], "not audio"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", "talk.wav"),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", "not audio"),
    ],
)
def test_what_is_no_audio(tmp_path, data, says):
    with pytest.raises(AudioUndecodable, match=says):
        run(tmp_path, data)


def test_a_playlist_cannot_open_other_files(tmp_path, speech):
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nfile://{speech}/librivox.flac\n#EXT-X-ENDLIST\n"
    for text in (playlist, f"ffconcat version 1.0\nfile {speech}/librivox.flac\n"):
        with pytest.raises(AudioUndecodable):
            run(tmp_path, text.encode())


def test_an_mp4_without_its_index_is_no_audio(tmp_path):
    data = encode("mp4", "aac")
    with pytest.raises(AudioUndecodable):
        run(tmp_path, data[: len(data) // 2])


def test_a_truncated_file_gives_what_is_there(tmp_path):
    data = encode("mp3", "libmp3lame", seconds=4.0)
    assert run(tmp_path, data[: len(data) // 2]).size == pytest.approx(2 * 16_000, rel=0.1)


def test_damaged_bytes_in_the_middle_do_not_end_it(tmp_path, speech: Path):
    data = bytearray((speech / "librivox.flac").read_bytes())
    data[50_000:60_000] = bytes(10_000)
    assert run(tmp_path, bytes(data)).size > 25 * 16_000


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (wav(rate=10, seconds=10), "10 Hz; accepted are 4000 to 192000 Hz"),
        (wav(rate=400_000, seconds=0.01), "400000 Hz; accepted are 4000 to 192000 Hz"),
        (wav(channels=64, seconds=0.1), "64 channels; accepted are 1 to 8"),
        (wav(rate=8_000, seconds=61), "too long; accepted are up to 60 seconds"),
    ],
)
def test_what_is_outside_the_limits(tmp_path, data, says):
    with pytest.raises(AudioRejected, match=says):
        run(tmp_path, data)


@pytest.mark.parametrize("claimed_bytes", [2**32 - 1, 2**32 - 16])
def test_a_tiny_file_that_claims_hours_gives_what_it_holds(tmp_path, claimed_bytes):
    assert run(tmp_path, wav(claimed_bytes=claimed_bytes)).size == 16_000


def test_silence_packed_small_is_stopped_at_the_limit_and_not_believed(tmp_path):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as out:
        stream = out.add_stream("flac", rate=8_000)
        for _ in range(3):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8_000 * 30), np.int16), format="s16", layout="mono")
            frame.sample_rate = 8_000
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with pytest.raises(AudioRejected, match="too long"):
        run(tmp_path, buffer.getvalue())


def test_cancelling_stops_the_decoding(tmp_path):
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        run(tmp_path, wav(), cancelled=cancelled)


def test_memory_does_not_grow_with_the_recording(tmp_path):
    path = tmp_path / "upload"
    path.write_bytes(wav(seconds=600, rate=16_000))
    limits = replace(LIMITS, max_duration_s=3600)
    tracemalloc.start()
    with Recording(tmp_path) as recording:
        for _ in decode(path, "long.wav", recording, limits, threading.Event()):
            pass
        assert recording.duration_s == 600
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # One copy as float32 would be 38 MB.
    assert peak_bytes < 4e6


def test_a_recording_is_read_piece_by_piece(tmp_path):
    with Recording(tmp_path) as recording:
        recording.append(np.array([0, 16_384, -32_768], np.int16))
        recording.append(np.array([8_192], np.int16))
        assert recording.samples == 4
        assert recording.peak == 1.0
        assert recording.read(1, 3).tolist() == [0.5, -1.0]
        assert recording.read(3, 100).tolist() == [0.25]
        assert recording.read(9, 12).size == 0
