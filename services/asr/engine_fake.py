"""A named fake: a fixed service time and a fixed conversation, for load tests of what surrounds the engine."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from narrative.errors import Cancelled
from services.asr.engine import Event, ModelInfo, Progress, Segment, Summary, TranscribeOptions, Word
from services.asr.options import check_options
from services.asr.settings import AsrSettings

_CONVERSATION = (
    "A little girl is sitting on the green grass next to a large brown dog.",
    "There is a wooden table with a red apple on it.",
    "High mountains stand behind a quiet lake.",
)
_SEGMENT_S = 4.0


class FakeEngine:
    """Three speakers say one sentence each, whatever the recording holds."""

    def __init__(self, settings: AsrSettings) -> None:
        self._service_s = settings.fake_service_s

    def load(self) -> None:
        """Has nothing to load."""

    def close(self) -> None:
        """Has nothing to close."""

    def models(self) -> Sequence[ModelInfo]:
        return [
            ModelInfo("fake", "transcription", "fake", languages=("en",), is_default=True),
            ModelInfo("fake", "diarization", "fake", is_default=True),
        ]

    def check(self, options: TranscribeOptions) -> None:
        check_options(options, ("fake",), ("en",))

    def transcribe(self, path: Path, options: TranscribeOptions, cancelled: threading.Event) -> Iterator[Event]:
        self.check(options)
        count = len(_CONVERSATION)
        for index, text in enumerate(_CONVERSATION):
            yield Progress("transcription", index / count)
            if cancelled.wait(self._service_s / count):
                raise Cancelled("the caller gave up")
            start_s = index * _SEGMENT_S
            speaker = "SPEAKER_00" if options.skip_diarization else f"SPEAKER_{index:02}"
            words = (Word(text, start_s, start_s + _SEGMENT_S, 1.0),) if options.word_timestamps else ()
            english = text if options.translate_to_english else ""
            yield Segment(index, speaker, start_s, start_s + _SEGMENT_S, text, "en", 1.0, words, english)
        speakers = ("SPEAKER_00",) if options.skip_diarization else tuple(f"SPEAKER_{i:02}" for i in range(count))
        yield Summary(count * _SEGMENT_S, speakers, "en", "fake", "fake")
