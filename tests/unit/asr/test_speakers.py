"""Words find their speaker."""

import pytest

from services.asr.engine import Turn, Word
from services.asr.speakers import SpeakerNames, cut_at_speaker_changes, speaker_of

TURNS = [Turn(0.0, 2.0, "a"), Turn(2.0, 4.0, "b"), Turn(6.0, 8.0, "a")]


@pytest.mark.parametrize(
    ("start_s", "end_s", "speaker"),
    [
        (0.5, 1.0, "a"),
        (1.7, 2.2, "a"),
        (1.8, 2.5, "b"),
        (4.2, 4.4, "b"),  # In a pause, nearer to b.
        (5.5, 5.8, "a"),
        (9.0, 9.5, "a"),
    ],
)
def test_a_word_belongs_to_whom_it_overlaps_longest_or_to_the_nearest(start_s, end_s, speaker):
    assert speaker_of(start_s, end_s, TURNS) == speaker


def test_overlaps_with_several_turns_of_one_speaker_add_up():
    turns = [Turn(0.0, 0.4, "a"), Turn(0.4, 0.9, "b"), Turn(0.9, 1.3, "a")]
    assert speaker_of(0.0, 1.3, turns) == "a"


def test_words_are_cut_where_the_speaker_changes():
    words = [
        Word(text, at, at + 0.4, 1.0) for text, at in [(" one", 0.1), (" two", 1.2), (" three", 2.1), (" four", 6.5)]
    ]
    runs = [(speaker, [word.text for word in run]) for speaker, run in cut_at_speaker_changes(words, TURNS)]
    assert runs == [("a", [" one", " two"]), ("b", [" three"]), ("a", [" four"])]


def test_no_words_give_no_runs():
    assert list(cut_at_speaker_changes([], TURNS)) == []


def test_speakers_are_numbered_as_they_appear():
    names = SpeakerNames()
    assert [names[label] for label in ("x", "c", "x", "a")] == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_00", "SPEAKER_02"]
    assert names.in_order() == ("SPEAKER_00", "SPEAKER_01", "SPEAKER_02")
