"""Any container FFmpeg reads to 16 kHz mono, in bounded memory and trusting nothing the file claims."""

import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np
import structlog
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer

from narrative.errors import AudioRejected, AudioUndecodable, Cancelled
from services.asr.engine import SAMPLE_RATE_HZ
from services.asr.recording import Recording

log = structlog.get_logger()

# The frugalest speech codecs need some 600 bit/s; a file that claims to hold more time than that is not believed.
_LEAST_CREDIBLE_BIT_RATE = 500
_REPORT_SAMPLES = 10 * SAMPLE_RATE_HZ


@dataclass(frozen=True)
class DecodeLimits:
    """What is accepted; units in the names."""

    max_duration_s: float
    min_sample_rate_hz: int
    max_sample_rate_hz: int
    max_channels: int


def decode(
    path: Path, name: str, into: Recording, limits: DecodeLimits, cancelled: threading.Event
) -> Generator[float, None, None]:
    """Appends the first audio stream of a file to ``into``; yields the share done, as far as it can be known.

    A damaged packet is left out, and a truncated file gives what is there.

    Args:
        name: how messages call the file.

    Raises:
        AudioUndecodable: no audio in it, or none that can be decoded.
        AudioRejected: outside ``limits``.
        Cancelled: ``cancelled`` was set.
    """
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise AudioUndecodable(f"{name} is empty; send an audio or video file")
    # A file object and an empty list of protocols: a playlist inside the upload can open neither files nor addresses.
    with path.open("rb") as file:
        try:
            container = av.open(file, "r", options={"protocol_whitelist": "none"}, metadata_errors="replace")
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise AudioUndecodable(f"{name} is not audio or video that can be read: {_reason(error)}") from error
        with container:
            if not container.streams.audio:
                raise AudioUndecodable(f"{name} holds no sound; send a file with an audio stream")
            stream = container.streams.audio[0]
            if not stream.codec_context.sample_rate:
                raise AudioUndecodable(f"{name} has an audio stream, but nothing says how to play it")
            _check_format(name, stream.codec_context.sample_rate, stream.codec_context.channels, limits)
            claimed_s = (container.duration or 0) / av.time_base
            _check_claim(name, claimed_s, size_bytes, limits)
            yield from _copy(name, container, stream, into, limits, claimed_s, cancelled)
    if into.samples == 0:
        raise AudioUndecodable(f"{name} has an audio stream, but nothing in it can be decoded")


def _copy(
    name: str,
    container: InputContainer,
    stream: AudioStream,
    into: Recording,
    limits: DecodeLimits,
    claimed_s: float,
    cancelled: threading.Event,
) -> Generator[float, None, None]:
    resampler, shape = _new_resampler(), None
    reported = 0
    for frame in _frames(name, container, stream):
        if cancelled.is_set():
            raise Cancelled("the caller gave up while the audio was being decoded")
        # Some broadcasts change rate or channels on the way; a resampler serves one combination.
        if shape != (frame.sample_rate, frame.layout.name, frame.format.name):
            _check_format(name, frame.sample_rate, frame.layout.nb_channels, limits)
            if shape is not None:
                _append(into, resampler.resample(None))
                resampler = _new_resampler()
            shape = (frame.sample_rate, frame.layout.name, frame.format.name)
        frame.pts = None  # Gaps in the time stamps are common and mean nothing here.
        _append(into, resampler.resample(frame))
        if into.duration_s > limits.max_duration_s:
            raise _too_long(name, limits)
        if into.samples - reported >= _REPORT_SAMPLES:
            reported = into.samples
            yield min(1.0, into.duration_s / claimed_s) if claimed_s > 0 else 0.0
    if shape is not None:
        _append(into, resampler.resample(None))


def _frames(name: str, container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    damaged = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):  # An error of the demuxer is how a truncated file ends.
            break
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            damaged += 1
    if damaged:
        log.warning("damaged packets left out", file=name, packets=damaged)


def _new_resampler() -> AudioResampler:
    return AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)


def _append(into: Recording, frames: list[AudioFrame]) -> None:
    for frame in frames:
        into.append(frame.to_ndarray().reshape(-1).astype(np.int16, copy=False))


def _check_format(name: str, sample_rate_hz: int, channels: int, limits: DecodeLimits) -> None:
    if not limits.min_sample_rate_hz <= sample_rate_hz <= limits.max_sample_rate_hz:
        raise AudioRejected(
            f"{name} has a sample rate of {sample_rate_hz} Hz; "
            f"accepted are {limits.min_sample_rate_hz} to {limits.max_sample_rate_hz} Hz"
        )
    if not 1 <= channels <= limits.max_channels:
        raise AudioRejected(f"{name} has {channels} channels; accepted are 1 to {limits.max_channels}")


def _check_claim(name: str, claimed_s: float, size_bytes: int, limits: DecodeLimits) -> None:
    """Turns a recording that is too long away without decoding it, unless what it claims cannot be true."""
    if claimed_s > limits.max_duration_s and size_bytes * 8 / claimed_s >= _LEAST_CREDIBLE_BIT_RATE:
        raise _too_long(name, limits)


def _too_long(name: str, limits: DecodeLimits) -> AudioRejected:
    return AudioRejected(f"{name} is too long; accepted are up to {limits.max_duration_s:g} seconds")


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).strip().rstrip(".")
