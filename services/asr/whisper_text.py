"""What goes into Whisper and what comes out: stretches of audio, utterances, tokens between timestamps."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.asr.engine import Word

TIMESTAMP_S = 0.02  # Resolution of Whisper's timestamp tokens.
_REPETITIVE = 2.4  # Ratio of compression, as in the reference implementation.


@dataclass(frozen=True)
class Utterance:
    """What Whisper takes for one sentence; words keep their spaces, times count from the start of the audio."""

    words: tuple[Word, ...]
    confidence: float

    @property
    def text(self) -> str:
        return "".join(word.text for word in self.words).strip()


@dataclass(frozen=True)
class Stretch:
    """Something to transcribe.

    Attributes:
        audio: float32 (samples,), [-1, 1], 16 kHz mono; longer than 30 s if need be.
        language: code, or "" to detect it.
        likely_language: code to assume where detection is unsure, as it is of very short stretches.
    """

    audio: npt.NDArray[np.float32]
    language: str = ""
    likely_language: str = ""


@dataclass(frozen=True)
class Transcript:
    """Attributes: language code; utterances in time order; English translation, "" where none was asked for."""

    language: str
    utterances: tuple[Utterance, ...]
    english: str


def split_at_timestamps(
    tokens: Sequence[int], timestamp_begin: int, duration_s: float
) -> Iterator[tuple[list[int], float, float]]:
    """Text between timestamps as (tokens, start_s, end_s); what no timestamp ends goes on to ``duration_s``.

    Args:
        timestamp_begin: first timestamp token, which stands for zero seconds.
    """
    text: list[int] = []
    begin_s = 0.0
    for token in tokens:
        if token < timestamp_begin:
            text.append(token)
            continue
        end_s = (token - timestamp_begin) * TIMESTAMP_S
        if text:
            yield text, begin_s, end_s
            text = []
        begin_s = end_s
    if text:
        yield text, begin_s, max(begin_s, duration_s)


def is_repetitive(text: str) -> bool:
    """True where text goes round in circles, as seen by how well it can be compressed."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) > _REPETITIVE if data else False
