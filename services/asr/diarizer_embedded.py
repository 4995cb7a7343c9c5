"""The embedded diarizer: GE2E embeddings of overlapping windows, clustered; needs no hub and no GPU."""

import threading
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from narrative.catalogue import Catalogue
from narrative.errors import Cancelled, OutOfMemory
from services.asr.clustering import Labels, cluster_speakers
from services.asr.devices import give_back_memory, torch_device, with_memory_of
from services.asr.engine import SAMPLE_RATE_HZ, Audio, ModelInfo, Span, SpeakerBounds, Turn
from services.asr.ge2e import DIMENSIONS, WINDOW_SAMPLES, Ge2e
from services.asr.settings import AsrSettings

_HOP_SAMPLES = round(0.4 * SAMPLE_RATE_HZ)
_BATCH = 64
_FRAME_SAMPLES = SAMPLE_RATE_HZ // 50
_CLUSTERING_SHARE = 0.1


class EmbeddedDiarizer:
    """Average-linkage clustering of GE2E embeddings (1.6 s windows every 0.4 s), then a vote for every 20 ms."""

    def __init__(self, settings: AsrSettings) -> None:
        self._settings = settings
        self._model: Ge2e | None = None
        self.info = ModelInfo(Path(settings.speaker_model).name, "diarization", "ge2e-clustering", is_default=True)

    @property
    def num_bytes(self) -> int:
        return self._file().stat().st_size

    def load(self, device: str) -> None:
        # The network is small. Where other processes use the same cores, several OpenMP threads wait for one another:
        # 8 s for a batch instead of 0.5 s.
        torch.set_num_threads(1)

        def read() -> Ge2e:
            model = Ge2e.from_file(self._file(), torch_device(device))
            model.embed(np.zeros((1, WINDOW_SAMPLES), np.float32))
            return model

        try:
            self._model = with_memory_of(device, read)
        except OutOfMemory:
            self.offload()
            raise

    def offload(self) -> None:
        self._model = None
        give_back_memory()

    def _file(self) -> Path:
        folder = Catalogue().resolve(self._settings.speaker_model, self._settings.common.models_dir)
        return folder if folder.is_file() else folder / "pretrained.pt"

    def diarize(
        self, audio: Audio, speech: Sequence[Span], bounds: SpeakerBounds, cancelled: threading.Event
    ) -> Generator[float, None, list[Turn]]:
        assert self._model is not None, "load() comes first"
        windows = sliding_windows(speech)
        embeddings = np.empty((len(windows), DIMENSIONS), np.float32)
        for start in range(0, len(windows), _BATCH):
            if cancelled.is_set():
                raise Cancelled("the caller gave up while the speakers were being told apart")
            batch = np.stack([_read(audio, window) for window in windows[start : start + _BATCH]])
            embeddings[start : start + _BATCH] = with_memory_of("the device", partial(self._model.embed, batch))
            yield (1 - _CLUSTERING_SHARE) * min(1.0, (start + _BATCH) / len(windows))
        labels = cluster_speakers(
            embeddings,
            bounds,
            silhouette_threshold=self._settings.silhouette_threshold,
            max_clustered=self._settings.max_clustered_windows,
        )
        return list(turns_from_votes(speech, windows, labels))


def sliding_windows(speech: Sequence[Span]) -> list[Span]:
    """Windows of 1.6 s every 0.4 s inside every span; a shorter span is one window."""
    windows: list[Span] = []
    for span in speech:
        last = span.end - WINDOW_SAMPLES
        if last <= span.start:
            windows.append(span)
            continue
        windows += [Span(start, start + WINDOW_SAMPLES) for start in range(span.start, last, _HOP_SAMPLES)]
        windows.append(Span(last, span.end))
    return windows


def _read(audio: Audio, window: Span) -> npt.NDArray[np.float32]:
    """float32 (25600,); speech shorter than a window is repeated until it fills one."""
    return np.resize(audio.read(window.start, window.end), WINDOW_SAMPLES)


def turns_from_votes(speech: Sequence[Span], windows: Sequence[Span], labels: Labels) -> Iterator[Turn]:
    """Every window votes for its speaker, most in its middle; runs of 20 ms frames with one winner are turns."""
    position = 0
    for span in speech:
        frames = -(-(span.end - span.start) // _FRAME_SAMPLES)
        votes = np.zeros((frames, labels.max() + 1), np.float32)
        while position < len(windows) and windows[position].end <= span.end:
            window = windows[position]
            first = (window.start - span.start) // _FRAME_SAMPLES
            last = -(-(window.end - span.start) // _FRAME_SAMPLES)
            weight = 1.01 - np.abs(np.linspace(-1, 1, last - first))
            votes[first:last, labels[position]] += weight.astype(np.float32)
            position += 1
        winner = votes.argmax(1)
        cuts = [0, *(np.flatnonzero(np.diff(winner)) + 1).tolist(), frames]
        for begin, end in pairwise(cuts):
            stop = min(span.end, span.start + end * _FRAME_SAMPLES)
            yield Turn(
                (span.start + begin * _FRAME_SAMPLES) / SAMPLE_RATE_HZ,
                stop / SAMPLE_RATE_HZ,
                str(winner[begin]),
            )
