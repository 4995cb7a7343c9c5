"""Whisper's tokens, cut at its timestamps."""

from services.asr.whisper_text import is_repetitive, split_at_timestamps

T0 = 1000


def split(tokens, duration_s=10.0):
    return list(split_at_timestamps(tokens, T0, duration_s))


def test_text_lies_between_timestamps():
    assert split([T0, 1, 2, T0 + 100, T0 + 150, 3, T0 + 200]) == [([1, 2], 0.0, 2.0), ([3], 3.0, 4.0)]


def test_text_that_no_timestamp_ends_goes_on_to_the_end():
    assert split([T0 + 50, 1, 2]) == [([1, 2], 1.0, 10.0)]


def test_text_without_timestamps_has_all_the_time():
    assert split([1, 2, 3]) == [([1, 2, 3], 0.0, 10.0)]


def test_timestamps_without_text_are_nothing():
    assert split([T0, T0 + 10]) == []
    assert split([]) == []


def test_going_round_in_circles_is_noticed():
    assert is_repetitive("the red apple on the table, " * 20)
    assert not is_repetitive("A little girl is sitting on the green grass next to a large brown dog.")
    assert not is_repetitive("")
