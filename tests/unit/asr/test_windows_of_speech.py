"""The windows that are embedded, and the turns that their labels make."""

import itertools

import numpy as np

from services.asr.diarizer_embedded import sliding_windows, turns_from_votes
from services.asr.engine import Span

SECOND = 16_000


def test_windows_cover_a_span_and_never_leave_it():
    windows = sliding_windows([Span(SECOND, 5 * SECOND)])
    assert windows[0] == Span(SECOND, round(2.6 * SECOND))
    assert windows[-1] == Span(round(3.4 * SECOND), 5 * SECOND)
    assert all(window.end - window.start == round(1.6 * SECOND) for window in windows)
    assert max(after.start - before.start for before, after in itertools.pairwise(windows)) <= 0.4 * SECOND


def test_a_short_span_is_one_window():
    assert sliding_windows([Span(0, SECOND)]) == [Span(0, SECOND)]


def test_every_moment_of_speech_has_one_speaker():
    speech = [Span(0, 4 * SECOND + 123), Span(5 * SECOND, 5 * SECOND + 8000)]
    windows = sliding_windows(speech)
    labels = np.array([0 if window.end < 3 * SECOND else 1 for window in windows])
    turns = list(turns_from_votes(speech, windows, labels))
    assert [turn.speaker for turn in turns] == ["0", "1", "1"]
    assert turns[0].start_s == 0.0
    assert turns[0].end_s == turns[1].start_s
    assert turns[1].end_s == speech[0].end / SECOND
    assert (turns[2].start_s, turns[2].end_s) == (5.0, 5.5)
