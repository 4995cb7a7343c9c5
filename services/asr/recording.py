"""A decoded recording on disk, so that hours of audio never lie in memory."""

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from services.asr.engine import SAMPLE_RATE_HZ
from services.asr.scratch import write_all

_FULL_SCALE = np.float32(1 / 32768)


class Recording:
    """int16 samples at 16 kHz mono in a nameless temporary file, which vanishes with the process at the latest.

    Args:
        folder: where the file lies; 32 kB a second.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._samples = 0
        self._peak = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def samples(self) -> int:
        return self._samples

    @property
    def duration_s(self) -> float:
        return self._samples / SAMPLE_RATE_HZ

    @property
    def peak(self) -> float:
        """Largest magnitude so far, 0 to 1."""
        return self._peak / 32768

    def append(self, block: npt.NDArray[np.int16]) -> None:
        """Adds samples, int16 (n,).

        Raises:
            ResourceExhausted: the disk is full.
        """
        write_all(self._file, np.ascontiguousarray(block).tobytes())
        self._samples += block.size
        if block.size:
            self._peak = max(self._peak, int(block.max()), -int(block.min()))

    def read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """float32 (stop - start,), [-1, 1]; shorter where the recording ends."""
        data = os.pread(self._file.fileno(), max(0, stop - start) * 2, start * 2)
        return np.frombuffer(data, np.int16) * _FULL_SCALE
