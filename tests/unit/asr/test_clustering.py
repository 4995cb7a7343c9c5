"""Clusters of made-up embeddings; the bounded path keeps its promise."""

import numpy as np
import pytest

from services.asr import clustering
from services.asr.clustering import cluster_speakers
from services.asr.engine import SpeakerBounds


def embeddings(speakers, noise, seed=0):
    """Unit vectors around one random direction per entry of ``speakers``."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(speakers) + 1, 64))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    points = centres[speakers] + noise * random.normal(size=(len(speakers), 64)) / 8
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def same_partition(found, expected):
    pairs = set(zip(found.tolist(), expected, strict=True))
    return len(pairs) == len(set(found.tolist())) == len(set(expected))


def run(points, bounds=None, max_clustered=1500):
    return cluster_speakers(points, bounds or SpeakerBounds(), silhouette_threshold=0.38, max_clustered=max_clustered)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_finds_the_number_of_speakers(count):
    speakers = np.random.default_rng(1).integers(0, count, 120).tolist()
    assert same_partition(run(embeddings(speakers, 0.4)), speakers)


def test_one_speaker_is_not_split():
    assert run(embeddings([0] * 80, 0.6)).tolist() == [0] * 80


def test_an_exact_number_is_obeyed_even_against_the_evidence():
    assert len(set(run(embeddings([0] * 80, 0.6), SpeakerBounds(3, 3)).tolist())) == 3


def test_bounds_are_kept():
    speakers = [0, 1, 2, 3] * 20
    assert len(set(run(embeddings(speakers, 0.3), SpeakerBounds(1, 2)).tolist())) == 2
    assert len(set(run(embeddings([0] * 40, 0.5), SpeakerBounds(2, 8)).tolist())) >= 2


@pytest.mark.parametrize("count", [1, 2])
def test_more_speakers_than_embeddings_is_no_accident(count):
    labels = run(embeddings([0] * count, 0.5), SpeakerBounds(5, 5))
    assert len(labels) == count


def test_a_long_recording_is_clustered_from_a_bounded_sample(monkeypatch):
    rows = []
    linkage = clustering.linkage

    def spy(condensed, method):
        rows.append(round((1 + (1 + 8 * len(condensed)) ** 0.5) / 2))
        return linkage(condensed, method=method)

    monkeypatch.setattr(clustering, "linkage", spy)
    # Two hours have some 18,000 windows; the third speaker has one in fifty of them.
    speakers = np.random.default_rng(2).choice(3, 18_000, p=[0.55, 0.43, 0.02]).tolist()
    assert same_partition(run(embeddings(speakers, 0.4), max_clustered=500), speakers)
    assert rows == [500]
