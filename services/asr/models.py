"""The transcription models in memory: those of the settings, and those that the trainer published."""

import asyncio
import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from narrative.errors import NarrativeError, WeightsError
from narrative.registry import LocalCopies
from narrative.runtime.residency import ResidencyClient
from services.asr.engine import ModelInfo
from services.asr.model_list import ModelList
from services.asr.settings import AsrSettings
from services.asr.whisper import Whisper

CARD = "model-card.json"


class TranscriptionModels:
    """Models of the settings stay in memory; published ones are copied and loaded when they are first asked for.

    Under residency "in memory" means in the books of the residency service: weights are on the device under a lease.
    """

    def __init__(self, settings: AsrSettings) -> None:
        self._settings = settings
        self._list = ModelList(settings)
        self._copies = LocalCopies(self._list.registry, settings.published_models)
        self._residency: ResidencyClient | None = None
        self._configured: dict[str, Whisper] = {}
        self._published: OrderedDict[str, tuple[int, Whisper]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def residency(self) -> ResidencyClient | None:
        """The leases of this process, once it is loaded; None where nothing takes turns."""
        return self._residency

    def load(self) -> None:
        """Loads the models of the settings.

        Raises:
            WeightsError, ModelNotFound: one of them is not here or cannot be loaded.
        """
        if self._settings.residency_target:
            settings = self._settings
            self._residency = ResidencyClient(
                settings.residency_target, "asr", settings.residency_wait_s, settings.residency_priority
            )
            self._residency.start()
        self._list.load()
        for name, folder in self._list.folders.items():
            self._configured[name] = self._open(name, folder)

    def close(self) -> None:
        """Lets go of everything."""
        if self._residency is not None:
            self._residency.close()
        self._configured.clear()
        self._published.clear()

    def infos(self) -> dict[str, ModelInfo]:
        """See ``ModelList.infos``."""
        return self._list.infos()

    def info(self, name: str) -> ModelInfo:
        """See ``ModelList.info``."""
        return self._list.info(name)

    @contextlib.contextmanager
    def using(self, name: str, cancelled: threading.Event) -> Iterator[Whisper]:
        """The model of that name with its weights on the device for as long as the block runs.

        Raises:
            ModelNotFound, WeightsError: as ``open``.
            ResourceExhausted, OutOfMemory: there was no room on the device.
            Cancelled: ``cancelled`` was set while it waited for room.
        """
        whisper = self.open(name)
        if self._residency is None:
            yield whisper
            return
        with self._residency.lease(name, cancelled=cancelled):
            yield whisper

    def open(self, name: str) -> Whisper:
        """The model of that name, loaded where it was not; takes seconds, so it is for worker threads.

        Raises:
            ModelNotFound: no such model, or it was deleted since the request was accepted.
            WeightsError: a published model cannot be loaded.
        """
        if name in self._configured:
            return self._configured[name]
        with self._lock:
            self.info(name)
            folder = asyncio.run(self._copies.folder_of(name))
            version = (folder / CARD).stat().st_mtime_ns
            held = self._published.pop(name, None)
            if held is None or held[0] != version:
                if held is not None:
                    self._forget(name)
                held = (version, self._open(name, folder))
            self._published[name] = held
            while len(self._published) > self._settings.max_published_models:
                self._forget(self._published.popitem(last=False)[0])
            return held[1]

    def _open(self, name: str, folder: Path) -> Whisper:
        settings = self._settings
        whisper = Whisper(
            folder,
            compute_type=settings.compute_type,
            cpu_threads=settings.cpu_threads,
            workers=settings.max_workers,
            beam_size=settings.beam_size,
            min_context_s=settings.min_context_s,
        )
        if self._residency is None:
            whisper.load(settings.device)
            return whisper
        num_bytes = weight_bytes(folder, settings.compute_type) + int(settings.residency_working_bytes)
        self._residency.add(name, num_bytes, whisper)
        try:
            # Once on the device it is warm.
            with self._residency.lease(name):
                return whisper
        except NarrativeError:
            self._residency.remove(name)
            raise

    def _forget(self, name: str) -> None:
        if self._residency is not None:
            self._residency.remove(name)


def weight_bytes(folder: Path, compute_type: str) -> int:
    """Bytes of a model's weights in memory, from the size of its file: published files hold two bytes a value.

    Raises:
        WeightsError: the folder holds no model.
    """
    file = folder / "model.bin"
    if not file.is_file():
        raise WeightsError(f"{folder} cannot be loaded as a Whisper model: it has no model.bin")
    # 8-bit weights bring a scale for every row, and the convolutions stay as they are.
    share = 0.55 if compute_type.startswith("int8") else 2.0 if compute_type == "float32" else 1.0
    return round(file.stat().st_size * share)
