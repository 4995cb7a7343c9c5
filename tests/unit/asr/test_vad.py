"""From probabilities of speech to spans."""

import itertools

import numpy as np

from services.asr.vad import speech_frames


def probabilities(*runs):
    return np.concatenate([np.full(count, value, np.float32) for value, count in runs])


def test_speech_starts_high_and_ends_low():
    assert speech_frames(probabilities((0.1, 10), (0.9, 20), (0.4, 5), (0.1, 10)), 1000) == [(10, 35)]


def test_what_never_rises_is_no_speech():
    assert speech_frames(probabilities((0.45, 100)), 1000) == []


def test_short_pauses_are_bridged_and_short_bursts_dropped():
    heard = probabilities((0.9, 20), (0.1, 2), (0.9, 20), (0.1, 10), (0.9, 3), (0.1, 10))
    assert speech_frames(heard, 1000) == [(0, 42)]


def test_speech_goes_on_to_the_end():
    assert speech_frames(probabilities((0.1, 5), (0.9, 20)), 1000) == [(5, 25)]


def test_endless_speech_is_cut_where_it_is_least_probable():
    heard = probabilities((0.9, 80), (0.6, 1), (0.9, 79))
    assert speech_frames(heard, 100) == [(0, 80), (80, 160)]


def test_no_span_is_longer_than_asked_for():
    spans = speech_frames(np.full(1000, 0.9, np.float32), 100)
    assert max(end - begin for begin, end in spans) <= 100
    assert spans[0][0] == 0
    assert spans[-1][1] == 1000
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))


def test_nothing_is_nothing():
    assert speech_frames(np.empty(0, np.float32), 100) == []
