"""A clip of any format to 16 kHz mono, decoded when it is asked for."""

import io
from pathlib import Path

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from narrative.errors import AudioUndecodable

SAMPLE_RATE_HZ = 16_000
Audio = npt.NDArray[np.float32]


def decode(audio: Path | bytes, name: str, *, max_s: float) -> Audio:
    """float32 (samples,), [-1, 1], 16 kHz mono, of the first audio stream.

    Unlike the speech service, which makes the most of what a person sends, training wants whole clips: one damaged
    packet and the text may no longer be what is said.

    Args:
        audio: a file, or its bytes.
        name: how messages call it.
        max_s: decoding stops soon after that many seconds; the caller drops what is longer.

    Raises:
        AudioUndecodable: empty, no audio in it, damaged or truncated.
    """
    resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    pieces: list[AudioFrame] = []
    samples, limit = 0, round(max_s * SAMPLE_RATE_HZ)
    try:
        # A file object and an empty list of protocols: a playlist can open neither files nor addresses.
        with (
            io.BytesIO(audio) if isinstance(audio, bytes) else audio.open("rb") as file,
            av.open(file, "r", options={"protocol_whitelist": "none"}, metadata_errors="replace") as container,
        ):
            if not container.streams.audio:
                raise AudioUndecodable(f"{name} holds no sound")
            for frame in container.decode(container.streams.audio[0]):
                frame.pts = None
                resampled = resampler.resample(frame)
                pieces += resampled
                samples += sum(piece.samples for piece in resampled)
                if samples > limit:
                    break
            pieces += resampler.resample(None)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).strip().rstrip(".")
        raise AudioUndecodable(f"{name} cannot be decoded: {reason}") from error
    if not pieces:
        raise AudioUndecodable(f"{name} has an audio stream with nothing in it")
    return np.concatenate([piece.to_ndarray().reshape(-1) for piece in pieces]).astype(np.float32, copy=False)
