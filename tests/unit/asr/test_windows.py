"""Turns are packed into windows, and windows into batches."""

from itertools import pairwise

import pytest

from services.asr.engine import Turn
from services.asr.windows import Window, batch_windows, plan_windows

TURNS = [Turn(0.0, 2.0, "a"), Turn(2.0, 4.0, "b"), Turn(6.0, 8.0, "a")]


def test_turns_of_several_speakers_share_a_window_where_the_language_is_known():
    windows = plan_windows(TURNS, 10.0, one_speaker=False, max_s=30.0)
    assert [window.turns for window in windows] == [tuple(TURNS)]
    assert windows[0].start_s == 0.0
    assert windows[0].end_s == pytest.approx(8.1)


def test_a_window_has_one_speaker_where_the_language_must_be_detected():
    windows = plan_windows(TURNS, 10.0, one_speaker=True, max_s=30.0)
    assert [[turn.speaker for turn in window.turns] for window in windows] == [["a"], ["b"], ["a"]]


def test_windows_never_overlap_and_stay_inside_the_recording():
    windows = plan_windows(TURNS, 8.05, one_speaker=True, max_s=30.0)
    assert all(before.end_s <= after.start_s for before, after in pairwise(windows))
    assert windows[-1].end_s <= 8.05


def test_a_window_ends_before_it_grows_too_long_or_too_silent():
    turns = [Turn(at, at + 9.0, "a") for at in (0.0, 10.0, 20.0, 30.0, 45.0)]
    windows = plan_windows(turns, 60.0, one_speaker=False, max_s=30.0)
    assert [[turn.start_s for turn in window.turns] for window in windows] == [[0.0, 10.0, 20.0], [30.0], [45.0]]


def test_a_turn_longer_than_a_window_has_one_to_itself():
    windows = plan_windows([Turn(0.0, 45.0, "a"), Turn(45.5, 47.0, "a")], 50.0, one_speaker=False, max_s=30.0)
    assert [len(window.turns) for window in windows] == [1, 1]


def context_s(duration_s):
    return min(30.0, max(10.0, duration_s + 2.0))


def batches(durations_s, most):
    windows = [Window(0.0, duration_s, ()) for duration_s in durations_s]
    return [[window.end_s for window in batch] for batch in batch_windows(windows, context_s, most)]


def test_windows_of_a_similar_length_go_together():
    assert batches([3.0, 8.0, 5.0, 1.0, 4.0], 4) == [[3.0, 8.0, 5.0, 1.0], [4.0]]


def test_a_long_window_does_not_drag_short_ones_along():
    assert batches([3.0, 28.0, 28.0, 2.0], 4) == [[3.0], [28.0, 28.0], [2.0]]


def test_no_windows_no_batches():
    assert batches([], 4) == []
