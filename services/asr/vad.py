"""Voice activity: where somebody speaks, found block by block (Silero VAD v6, the copy faster-whisper carries)."""

import threading
from collections.abc import Generator

import numpy as np
import numpy.typing as npt
from faster_whisper.vad import SileroVADModel, get_vad_model

from narrative.errors import Cancelled
from services.asr.engine import SAMPLE_RATE_HZ, Audio, Span

FRAME_SAMPLES = 512
_BLOCK_FRAMES = 4096  # 131 s
_WARM_UP_FRAMES = 32  # The network remembers; a second of what came before lets a block start as if it had not begun.

_SPEECH_STARTS = 0.5
_SPEECH_ENDS = 0.35
_MIN_SPEECH_FRAMES = round(0.25 * SAMPLE_RATE_HZ / FRAME_SAMPLES)
_MIN_SILENCE_FRAMES = round(0.1 * SAMPLE_RATE_HZ / FRAME_SAMPLES)
_MARGIN_SAMPLES = round(0.03 * SAMPLE_RATE_HZ)


class VoiceActivityDetector:
    """Finds speech, in spans no longer than ``max_span_s``."""

    def __init__(self, max_span_s: float = 28.0) -> None:
        self._max_span_frames = round(max_span_s * SAMPLE_RATE_HZ / FRAME_SAMPLES)

    def load(self) -> None:
        self._model: SileroVADModel = get_vad_model()

    def find(self, audio: Audio, cancelled: threading.Event) -> Generator[float, None, list[Span]]:
        """Yields the share done and returns the spans, in order and without overlap; none where nobody speaks."""
        frames = -(-audio.samples // FRAME_SAMPLES)
        probability = np.empty(frames, np.float32)
        for start in range(0, frames, _BLOCK_FRAMES):
            if cancelled.is_set():
                raise Cancelled("the caller gave up while speech was being looked for")
            stop = min(frames, start + _BLOCK_FRAMES)
            first = max(0, start - _WARM_UP_FRAMES)
            samples = audio.read(first * FRAME_SAMPLES, stop * FRAME_SAMPLES)
            block = np.zeros((stop - first) * FRAME_SAMPLES, np.float32)
            block[: samples.size] = samples
            probability[start:stop] = self._model(block).reshape(-1)[start - first :]
            yield stop / frames
        return [
            Span(
                max(0, begin * FRAME_SAMPLES - _MARGIN_SAMPLES),
                min(audio.samples, end * FRAME_SAMPLES + _MARGIN_SAMPLES),
            )
            for begin, end in speech_frames(probability, self._max_span_frames)
        ]


def speech_frames(probability: npt.NDArray[np.float32], max_frames: int) -> list[tuple[int, int]]:
    """Speech as (first frame, frame after the last), from the probability of speech in every frame.

    Speech begins above one threshold and ends below a lower one; short pauses are bridged and short bursts dropped. A
    span of more than ``max_frames`` is cut where speech is least probable, so that no word is cut if it can be helped.

    Args:
        probability: float32 (frames,), [0, 1].
    """
    spans: list[tuple[int, int]] = []
    begin: int | None = None
    for index, value in enumerate(probability):
        if begin is None and value >= _SPEECH_STARTS:
            begin = index
        elif begin is not None and value < _SPEECH_ENDS:
            spans.append((begin, index))
            begin = None
    if begin is not None:
        spans.append((begin, len(probability)))

    merged: list[tuple[int, int]] = []
    for first, end in spans:
        if merged and first - merged[-1][1] < _MIN_SILENCE_FRAMES:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((first, end))

    bounded: list[tuple[int, int]] = []
    for first, end in merged:
        start = first
        while end - start > max_frames:
            half = start + max_frames // 2
            cut = half + int(np.argmin(probability[half : start + max_frames]))
            bounded.append((start, cut))
            start = cut
        bounded.append((start, end))
    return [(first, end) for first, end in bounded if end - first >= _MIN_SPEECH_FRAMES]
