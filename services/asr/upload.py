"""Where an upload waits on disk until its turn comes."""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from narrative.errors import PayloadTooLarge
from services.asr.scratch import write_all


class Upload:
    """A temporary file that takes chunks up to a limit and is removed in the end, whatever happens.

    Args:
        folder: where the file lies.
        max_bytes: most it takes.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._file = tempfile.NamedTemporaryFile(dir=folder, prefix="narrative-asr-", buffering=0)  # noqa: SIM115
        self._max_bytes = max_bytes
        self._size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def path(self) -> Path:
        return Path(self._file.name)

    def append(self, chunk: bytes) -> None:
        """Adds the next bytes.

        Raises:
            PayloadTooLarge: the limit is passed.
            ResourceExhausted: the disk is full.
        """
        self._size_bytes += len(chunk)
        if self._size_bytes > self._max_bytes:
            raise PayloadTooLarge(f"the file is too large; accepted are up to {self._max_bytes} bytes")
        write_all(self._file, chunk)
