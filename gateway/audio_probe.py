"""A look at an upload before a job is made of it: is it sound, and within the limits?

Reads headers only, so it answers in milliseconds; what only decoding can tell is left to the asr service.
"""

from typing import IO

import av
import av.error

from narrative.errors import AudioRejected, AudioUndecodable

MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 192_000
MAX_CHANNELS = 8
# Packets looked at; a container whose first ones cannot be decoded is not worth a job.
_PACKETS = 50
# The most sound that one byte can hold: a low-rate speech codec under heavy silence compression.
_MAX_SECONDS_PER_BYTE = 0.02
# Below this a header may say what it likes: the file costs nothing to decode.
_SHORT_S = 5.0
_ACCEPTED = "send a recording such as wav, flac, mp3, m4a, ogg, webm or mp4"


def probe_audio(file: IO[bytes], size_bytes: int, filename: str, max_duration_s: float) -> None:
    """Checks an audio or video file.

    Args:
        file: seekable; its position is lost.
        size_bytes: length of the file.
        filename: used in messages only.
        max_duration_s: longest recording that is accepted, in seconds.

    Raises:
        AudioUndecodable: the file is empty, no audio, or damaged at its start.
        AudioRejected: rate, channels or claimed length are outside the limits.
    """
    name = filename or "the upload"
    if size_bytes == 0:
        raise AudioUndecodable(f"{name} is empty; {_ACCEPTED}")
    file.seek(0)
    try:
        # An empty list of protocols: what calls itself a playlist or a stream can open neither files nor ports.
        options = {"protocol_whitelist": "none"}
        with av.open(file, mode="r", options=options, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AudioUndecodable(f"{name} has no audio track; {_ACCEPTED}")
            stream = container.streams.audio[0]
            _check_format(name, stream.codec_context.sample_rate, stream.codec_context.channels)
            duration_s = _claimed_duration_s(container, stream)
            _check_duration(name, duration_s, size_bytes, max_duration_s)
            _decode_start(name, container, stream)
    except (av.error.FFmpegError, ValueError, EOFError) as error:
        raise AudioUndecodable(
            f"{name} is no audio that can be read, or it is cut off ({_reason(error)}); {_ACCEPTED}"
        ) from error


def _check_format(name: str, rate_hz: int, channels: int) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioRejected(f"{name} has {rate_hz} samples a second; {MIN_RATE_HZ} to {MAX_RATE_HZ} are accepted")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioRejected(f"{name} has {channels} channels; 1 to {MAX_CHANNELS} are accepted")


def _claimed_duration_s(container: av.container.InputContainer, stream: av.audio.stream.AudioStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / 1_000_000


def _check_duration(name: str, duration_s: float | None, size_bytes: int, max_duration_s: float) -> None:
    if duration_s is None:
        return
    if duration_s > max_duration_s:
        raise AudioRejected(f"{name} lasts {duration_s:.0f} s; at most {max_duration_s:.0f} s are accepted")
    if duration_s > _SHORT_S and duration_s > size_bytes * _MAX_SECONDS_PER_BYTE:
        raise AudioRejected(f"{name} claims to last {duration_s:.0f} s but has only {size_bytes} bytes")


def _decode_start(name: str, container: av.container.InputContainer, stream: av.audio.stream.AudioStream) -> None:
    for number, packet in enumerate(container.demux(stream)):
        if number >= _PACKETS:
            break
        try:
            if packet.decode():
                return
        except av.error.InvalidDataError:
            # Readers skip a damaged packet; only when nothing can be decoded is the file refused.
            continue
    raise AudioUndecodable(f"{name} holds no sound that can be decoded: it is damaged or cut off; {_ACCEPTED}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
