"""Files and folders that commands write: what cannot be written is refused before the work for it, not after."""

import os
from pathlib import Path

from narrative.errors import InvalidParameter


def check_file(path: Path) -> None:
    """Raises InvalidParameter where no file can be written at a path, with the folders above it."""
    if path.is_dir():
        raise InvalidParameter(f"{path} is a folder; name a file to write", field="output")
    _check(path, path.parent)


def check_folder(path: Path) -> None:
    """Raises InvalidParameter where there can be no folder at a path to write into."""
    _check(path, path)


def write(path: Path, content: bytes) -> None:
    """Writes a file, and makes the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _check(path: Path, folder: Path) -> None:
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        raise InvalidParameter(f"{path} cannot be written: {there} is no folder", field="output")
    if not os.access(there, os.W_OK):
        raise InvalidParameter(f"{path} cannot be written: {there} is read-only", field="output")
