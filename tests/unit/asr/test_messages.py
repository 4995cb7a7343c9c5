"""Options and events survive the way through messages."""

import pytest

from services.asr.engine import Event, Progress, Segment, Summary, TranscribeOptions, Word
from services.asr.messages import read_event, read_options, write_event, write_options

SEGMENT = Segment(3, "SPEAKER_01", 0.1, 2.3, "Да.", "ru", 0.87, (Word("Да.", 0.1, 0.4, 0.9),), "Yes.")


def test_options_come_back_as_they_were() -> None:
    options = TranscribeOptions("talk.m4a", "whisper-base", "ru", 0, 1, 4, 0.2, True, False, True)

    assert read_options(write_options(options)) == options


@pytest.mark.parametrize(
    "event",
    [Progress("decoding", 0.05), SEGMENT, Summary(4.2, ("SPEAKER_00", "SPEAKER_01"), "ru", "whisper-base", "ge2e")],
)
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    assert read_event(write_event(event)) == event
