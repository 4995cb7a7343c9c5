"""What a prompt engine does, in plain Python."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Line:
    """One transcribed segment; times in seconds from the start of the recording."""

    id: int
    speaker: str
    text: str
    start_s: float = 0.0
    end_s: float = 0.0


@dataclass(frozen=True)
class NormalizedLine:
    line: Line
    normalized_text: str


@dataclass(frozen=True)
class Scene:
    """What can be seen.

    Attributes:
        scene: one phrase: who or what, doing what, where.
        style: mood or manner of drawing.
        details: at most 4, of 1 to 5 words each, none of them in ``scene`` already.
    """

    scene: str
    style: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class SpeakerScene:
    """Everything one speaker said, as one scene and one prompt for a picture model."""

    speaker: str
    lines: tuple[NormalizedLine, ...]
    text: str
    scene: Scene
    visual_prompt: str


@dataclass(frozen=True)
class Progress:
    """How far a call has come; ``fraction`` is in [0, 1]."""

    stage: str
    fraction: float


@dataclass(frozen=True)
class ModelInfo:
    id: str
    engine: str
    licence: str
    languages: tuple[str, ...]


class PromptEngine(Protocol):
    """An engine only waits for its LLM, so its calls are coroutines; ``load`` and ``close`` block."""

    def load(self) -> None: ...

    def close(self) -> None: ...

    def models(self) -> Sequence[ModelInfo]:
        """The LLM, then its adapters; may ask the server for them, and so blocks for a moment."""
        ...

    async def normalize(self, texts: Sequence[str], language: str, model: str = "") -> list[str]:
        """Mends punctuation and typing errors; as many texts out as in, nothing added and nothing lost.

        Args:
            model: the LLM or one of its adapters; empty for the LLM itself.

        Raises:
            InvalidParameter: unknown language, or texts outside the limits.
            ModelNotFound: no such adapter; names those there are.
            QueueFull: as many calls are under way as may be, or the LLM server has too much to do.
        """
        ...

    async def describe(
        self, speaker: str, lines: Sequence[Line], language: str, style: str = "", model: str = ""
    ) -> SpeakerScene:
        """Turns the lines of one speaker into a scene and a visual prompt.

        Of lines without a word ("...") comes what is seen of somebody who only talks.

        Args:
            style: used instead of the one the LLM would choose; empty to let it choose.
            model: as for ``normalize``.

        Raises:
            InvalidParameter: a language the LLM does not read, no lines, or lines outside the limits.
            ModelNotFound, QueueFull: as for ``normalize``.
            ModelOutputInvalid: the LLM broke its contract twice.
            ServiceUnavailable: the LLM server is down.
            ResourceExhausted: the LLM server turns the call away.
            DeadlineExceeded: the LLM server did not answer in time.
        """
        ...

    def process(
        self, lines: Sequence[Line], language: str, style: str = "", model: str = ""
    ) -> AsyncIterator[Progress | SpeakerScene]:
        """Describes all speakers at the same time and yields each as soon as its scene is written.

        Raises:
            as ``describe``; the first speaker that fails ends the call.
        """
        ...
