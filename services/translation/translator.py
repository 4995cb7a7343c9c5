"""A CTranslate2 model and where its weights are."""

import gc
from pathlib import Path
from typing import Any

import ctranslate2
import structlog

from narrative.errors import OutOfMemory, WeightsCorrupt
from narrative.runtime.device_memory import is_out_of_memory, trying_twice

log = structlog.get_logger()


class Translator:
    """Weights that can be brought to a device and sent away; the library's own calls are those of ``model``.

    Args:
        folder: model in CTranslate2 form.
        compute_type: type of the weights in memory, "default" as in the file.
        threads: CPU threads.
    """

    def __init__(self, folder: Path, compute_type: str, threads: int) -> None:
        self._folder = folder
        self._compute_type = compute_type
        self._threads = threads
        self._device = ""
        self.model: Any = None

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights on a device, at most: published files hold two bytes a value, or one."""
        return (self._folder / "model.bin").stat().st_size * (2 if self._compute_type == "float32" else 1)

    def load(self, device: str) -> None:
        """Brings the weights to a device: "cpu", "cuda", "auto", "cuda:1", or "host:0" for memory of this machine.

        Raises:
            WeightsCorrupt: CTranslate2 cannot read the model, or not run it there.
            OutOfMemory: the device has no room.
        """
        if device == self._device and self._wake():
            return
        try:
            self.model = trying_twice(lambda: self._read(device), gc.collect)
        except (RuntimeError, ValueError, OSError, MemoryError) as error:
            self._check_memory(error, device)
            raise WeightsCorrupt(f"{self._folder.name}: cannot be loaded: {error}") from error
        self._device = device

    def _read(self, device: str) -> Any:
        kind, _, index = device.partition(":")
        return ctranslate2.Translator(
            str(self._folder),
            device="cpu" if kind == "host" else kind,
            device_index=int(index or 0) if kind == "cuda" else 0,
            compute_type=self._compute_type,
            intra_threads=self._threads,
        )

    def offload(self) -> None:
        """Takes the weights off the device: from a GPU to host memory, from host memory altogether."""
        self.model.unload_model(to_cpu=self._device.startswith("cuda"))

    def _wake(self) -> bool:
        """Brings back what ``offload`` has left; false where that fails and everything has to be read anew."""
        try:
            trying_twice(self.model.load_model, gc.collect)
        except (RuntimeError, MemoryError) as error:
            self._check_memory(error, self._device)
            log.warning("waking failed; loading anew", model=self._folder.name, error=str(error))
            self._device = ""
            return False
        return True

    def _check_memory(self, error: Exception, device: str) -> None:
        if is_out_of_memory(error):
            raise OutOfMemory(f"{device} has no room for {self._folder.name} now", retry_after_s=5.0) from error
