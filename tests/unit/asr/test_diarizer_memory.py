"""Diarizers try once more where memory is short; models, pipelines and their memory are made up."""

import threading
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from narrative.errors import OutOfMemory
from services.asr.diarizer_embedded import EmbeddedDiarizer
from services.asr.diarizer_pyannote import PyannoteDiarizer
from services.asr.engine import SAMPLE_RATE_HZ, Span, SpeakerBounds, Turn
from services.asr.ge2e import DIMENSIONS, Ge2e
from services.asr.settings import AsrSettings

SECONDS = 3
# torch's own, and what cuDNN says, which is no torch.OutOfMemoryError.
SHORTAGES = [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")]


class Memory:
    """Fails the next calls with what ``errors`` holds."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def take(self) -> None:
        if self.errors:
            raise self.errors.pop()


class Audio:
    samples = SECONDS * SAMPLE_RATE_HZ

    def read(self, start: int, end: int) -> npt.NDArray[np.float32]:
        return np.zeros(end - start, np.float32)


class Pipeline:
    """In place of pyannote's; ``device`` is where it is."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.device = "cpu"

    def to(self, device: torch.device) -> None:
        self.device = str(device)
        if self.device != "cpu":
            self._memory.take()

    def __call__(self, *_: object, **__: object) -> SimpleNamespace:
        self._memory.take()
        tracks = [(SimpleNamespace(start=0.0, end=float(SECONDS)), "A", "0")]
        return SimpleNamespace(
            exclusive_speaker_diarization=SimpleNamespace(itertracks=lambda yield_label: iter(tracks))
        )


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def pyannote(memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PyannoteDiarizer:
    monkeypatch.setattr(PyannoteDiarizer, "_read", lambda _: Pipeline(memory))
    return PyannoteDiarizer(AsrSettings(pyannote_pipeline=str(tmp_path)))


@pytest.fixture
def embedded(memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedDiarizer:
    class Model:
        def embed(self, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            memory.take()
            return np.full((len(windows), DIMENSIONS), DIMENSIONS**-0.5, np.float32)

    monkeypatch.setattr(Ge2e, "from_file", lambda *_: Model())
    return EmbeddedDiarizer(AsrSettings(speaker_model=str(tmp_path)))


@pytest.fixture(params=["pyannote", "embedded"])
def diarizer(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def turns_of(diarizer: Any) -> list[Turn]:
    audio = Audio()
    work: Generator[float, None, list[Turn]] = diarizer.diarize(
        audio, [Span(0, audio.samples)], SpeakerBounds(1, 2), threading.Event()
    )
    while True:
        try:
            next(work)
        except StopIteration as done:
            return list(done.value)


@pytest.mark.parametrize("error", SHORTAGES)
def test_memory_that_is_short_once_does_not_matter(diarizer: Any, memory: Memory, error: Exception) -> None:
    memory.errors = [error]
    diarizer.load("cuda:0")
    memory.errors = [error]
    assert [(turn.start_s, turn.end_s) for turn in turns_of(diarizer)] == [(0.0, float(SECONDS))]


@pytest.mark.parametrize("error", SHORTAGES)
def test_memory_that_stays_short_is_told_as_such(diarizer: Any, memory: Memory, error: Exception) -> None:
    memory.errors = [error, error]
    with pytest.raises(OutOfMemory, match="cuda:0 has no room"):
        diarizer.load("cuda:0")
    diarizer.load("cuda:0")
    memory.errors = [error, error]
    with pytest.raises(OutOfMemory, match="no room to tell the speakers apart"):
        turns_of(diarizer)


def test_a_pipeline_that_found_no_room_is_in_host_memory(pyannote: PyannoteDiarizer, memory: Memory) -> None:
    memory.errors = [*SHORTAGES]
    with pytest.raises(OutOfMemory):
        pyannote.load("cuda:0")
    assert pyannote._pipeline.device == "cpu"


def test_other_errors_are_not_tried_again(diarizer: Any, memory: Memory) -> None:
    diarizer.load("cuda:0")
    memory.errors = [RuntimeError("CUDA error: an illegal memory access")]
    with pytest.raises(RuntimeError, match="illegal memory access"):
        turns_of(diarizer)
