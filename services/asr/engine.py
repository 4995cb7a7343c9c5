"""What the speech service promises, whatever runs it: recording in, progress and segments out."""

import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

SAMPLE_RATE_HZ = 16_000


@dataclass(frozen=True)
class TranscribeOptions:
    """One request; zero and "" mean "the server decides".

    Attributes:
        filename: name the file had, for error messages.
        model: transcription model.
        language: ISO 639-1 code, "" to detect it for every stretch of one speaker.
        num_speakers: exact number of speakers.
        min_speakers, max_speakers: bounds of the estimate.
        temperature: 0 to 1; 0 decodes deterministically.
        word_timestamps: return the words of each segment.
        skip_diarization: give everything to one speaker.
        translate_to_english: fill in ``Segment.english_text`` with the speech model's own translation.
    """

    filename: str = ""
    model: str = ""
    language: str = ""
    num_speakers: int = 0
    min_speakers: int = 0
    max_speakers: int = 0
    temperature: float = 0.0
    word_timestamps: bool = False
    skip_diarization: bool = False
    translate_to_english: bool = False

    @property
    def shown_name(self) -> str:
        """How messages call the file."""
        return self.filename[:80] or "the recording"


@dataclass(frozen=True)
class Progress:
    """``fraction`` is the share of the whole call, 0 to 1."""

    stage: str
    fraction: float


@dataclass(frozen=True)
class Word:
    text: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True)
class Segment:
    """One stretch of speech by one speaker; fields as in ``narrative.v1.Segment``."""

    id: int
    speaker: str
    start_s: float
    end_s: float
    text: str
    language: str
    confidence: float
    words: tuple[Word, ...] = ()
    english_text: str = ""


@dataclass(frozen=True)
class Summary:
    """Ends every transcription that did not fail."""

    duration_s: float
    speakers: tuple[str, ...]
    language: str
    transcription_model: str
    diarization_model: str


Event = Progress | Segment | Summary


@dataclass(frozen=True)
class ModelInfo:
    """A model as ``ListModels`` shows it."""

    id: str
    task: Literal["transcription", "diarization"]
    engine: str
    licence: str = ""
    languages: tuple[str, ...] = ()
    is_default: bool = False


class AsrEngine(Protocol):
    """Decodes, finds out who spoke when, transcribes."""

    def load(self) -> None: ...

    def close(self) -> None: ...

    def models(self) -> Sequence[ModelInfo]: ...

    def check(self, options: TranscribeOptions) -> None:
        """Says at once what is wrong with the options, before a byte of audio is sent.

        Raises:
            InvalidParameter: a field is out of range.
            ModelNotFound: no such transcription model.
        """

    def transcribe(self, path: Path, options: TranscribeOptions, cancelled: threading.Event) -> Iterator[Event]:
        """Yields progress and segments in time order as they are ready, a summary last.

        Args:
            path: audio or video file in any container FFmpeg reads.
            cancelled: when set, work stops within seconds.

        Raises:
            AudioUndecodable, AudioRejected, NoSpeech: there is nothing to transcribe; says why.
            Cancelled: ``cancelled`` was set.
        """


class Audio(Protocol):
    """A recording at 16 kHz mono that is read piece by piece, because it may last hours."""

    @property
    def samples(self) -> int: ...

    def read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """float32 (stop - start,), [-1, 1]; shorter where the recording ends."""


@dataclass(frozen=True)
class Span:
    """A stretch of a recording in samples at 16 kHz, end excluded."""

    start: int
    end: int


@dataclass(frozen=True)
class Turn:
    """A stretch in which one speaker speaks; labels mean nothing beyond being equal or different."""

    start_s: float
    end_s: float
    speaker: str


@dataclass(frozen=True)
class SpeakerBounds:
    """How many speakers there may be; both ends included."""

    least: int = 1
    most: int = 8


class Diarizer(Protocol):
    """Finds out who spoke when.

    Attributes:
        num_bytes: of its weights.
    """

    info: ModelInfo

    @property
    def num_bytes(self) -> int: ...

    def load(self, device: str) -> None:
        """Brings the weights to a device: "cpu", "cuda", "cuda:1", or "host:0" for memory of this machine.

        Raises:
            WeightsError: they are missing or broken.
            OutOfMemory: the device has no room.
        """

    def offload(self) -> None:
        """Takes the weights off the device."""

    def diarize(
        self, audio: Audio, speech: Sequence[Span], bounds: SpeakerBounds, cancelled: threading.Event
    ) -> Generator[float, None, list[Turn]]:
        """Yields the share done, 0 to 1, and returns the turns: in time order, without overlap.

        Args:
            speech: where the voice activity detector heard somebody; not empty.

        Raises:
            Cancelled: ``cancelled`` was set.
        """
