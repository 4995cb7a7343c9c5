"""Lists that come with a data set: UTF-8, and leading to nothing outside it.

A data set may come from somebody else than the files of this machine.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from narrative.errors import DatasetInvalid


def read_text(path: Path) -> str:
    """A text file, with or without a byte order mark.

    Raises:
        DatasetInvalid: it cannot be read, or is not UTF-8.
    """
    with readable_text(path):
        return path.read_text(encoding="utf-8-sig")


@contextmanager
def readable_text(path: Path) -> Iterator[None]:
    """Where a text file is read.

    Raises:
        DatasetInvalid: it could not be, or is not UTF-8.
    """
    try:
        yield
    except (UnicodeDecodeError, OSError) as error:
        raise DatasetInvalid(f"{path} cannot be read as UTF-8 text: {error}") from error


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file with one a line, each with what to call its line in messages.

    Raises:
        DatasetInvalid: the file cannot be read, or a line is no object.
    """
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DatasetInvalid(f"{where}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DatasetInvalid(f"{where}: an object is needed, with columns as keys")
        yield where, row


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with readable_text(path), path.open(encoding="utf-8-sig") as file:
        yield from enumerate(file, 1)


def string(value: Any, what: str) -> str:
    """A value that has to be text.

    Raises:
        DatasetInvalid: it is none; ``what`` says which it is.
    """
    if not isinstance(value, str):
        raise DatasetInvalid(f"{what} is {json.dumps(value, default=str)}, a text is needed")
    return value


def inside(folder: Path, name: Any, where: str) -> Path:
    """The path that a list in ``folder`` names; whether something is there is not looked at.

    Raises:
        DatasetInvalid: no path, or one that leads out of the folder.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise DatasetInvalid(f"{where}: {json.dumps(name, default=str)} names no file")
    if not Path(os.path.normpath(folder.absolute() / name)).is_relative_to(os.path.normpath(folder.absolute())):
        raise DatasetInvalid(f"{where}: {name!r} leads out of {folder}; give a path inside it")
    return folder / name
