"""Edited pictures with their originals and instructions, from folders, videos and hub data sets."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import PIL.Image

from narrative.errors import DatasetInvalid, InvalidParameter
from narrative.hashing import sha256_of
from services.trainer.pictures.images import as_rgb, read_picture

_SHOWN = 5


class EditSource(Protocol):
    """Edits by number; pictures are read when they are asked for."""

    def __len__(self) -> int:
        """How many."""
        ...

    def frames(self, index: int) -> list[PIL.Image.Image]:
        """The original: one picture, or the frames of a video."""
        ...

    def edited(self, index: int) -> PIL.Image.Image:
        """The edited picture."""
        ...

    def instruction(self, index: int) -> str:
        """What was asked for."""
        ...

    def digest(self) -> str:
        """Changes when a picture or instruction does."""
        ...


@dataclass(frozen=True)
class _Edit:
    frames: tuple[Path, ...]
    edited: Path
    instruction: str


class _FileEdits:
    def __init__(self, folder: Path, edits: list[_Edit]) -> None:
        self._folder, self._edits = folder, edits

    def __len__(self) -> int:
        return len(self._edits)

    def frames(self, index: int) -> list[PIL.Image.Image]:
        return [read_picture(path) for path in self._edits[index].frames]

    def edited(self, index: int) -> PIL.Image.Image:
        return read_picture(self._edits[index].edited)

    def instruction(self, index: int) -> str:
        return self._edits[index].instruction

    def digest(self) -> str:
        digest = hashlib.sha256()
        for edit in self._edits:
            files = [sha256_of(path) for path in (*edit.frames, edit.edited)]
            digest.update(json.dumps([*files, edit.instruction]).encode())
        return f"sha256:{digest.hexdigest()}"


class _HubEdits:
    def __init__(self, name: str, rows: Any, columns: Sequence[str]) -> None:
        self._name, self._rows = name, rows
        self._input, self._prompt, self._edited = columns

    def __len__(self) -> int:
        return len(self._rows)

    def frames(self, index: int) -> list[PIL.Image.Image]:
        return [self._picture(index, self._input)]

    def edited(self, index: int) -> PIL.Image.Image:
        return self._picture(index, self._edited)

    def instruction(self, index: int) -> str:
        return str(self._rows[self._prompt][index])

    def digest(self) -> str:
        return f"datasets:{self._rows._fingerprint}"

    def _picture(self, index: int, column: str) -> PIL.Image.Image:
        try:
            return as_rgb(self._rows[index][column])
        except (OSError, ValueError, SyntaxError, AttributeError) as error:
            raise DatasetInvalid(f"{self._name}, row {index}, {column}: not a readable picture") from error


def folder_edits(folder: Path, columns: Sequence[str]) -> EditSource:
    """Reads ``metadata.jsonl``; keys may also end in ``_file_name``, and ``file_name`` may stand for the original.

    Raises:
        DatasetInvalid: no folder, no metadata, a picture that is missing.
        InvalidParameter: a line without one of the columns.
    """
    metadata = _metadata(folder, "metadata.jsonl")
    edits = []
    for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{metadata}, line {number}"
        try:
            row = dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise DatasetInvalid(f"{where}: a JSON object is expected") from error
        original, instruction, edited = (_value(row, column, where, first=column == columns[0]) for column in columns)
        edits.append(_Edit((_existing(folder / original, where),), _existing(folder / edited, where), instruction))
    return _not_empty(_FileEdits(folder, edits), metadata)


def video_edits(folder: Path, num_frames: int) -> EditSource:
    """Reads ``metadata.json``: ``[{"video_path", "instruction"}]``, paths relative to the folder.

    A video is a folder of ``00.jpg`` to the last frame, and one more: the edited one (``.png`` is read too).

    Raises:
        DatasetInvalid: no metadata, a frame that is missing.
    """
    metadata = _metadata(folder, "metadata.json")
    try:
        rows = [(str(row["video_path"]), str(row["instruction"])) for row in json.loads(metadata.read_text("utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetInvalid(f'{metadata}: [{{"video_path": ..., "instruction": ...}}] is expected') from error
    edits = []
    for path, instruction in rows:
        frames = [_frame(folder / path, number) for number in range(num_frames + 1)]
        edits.append(_Edit(tuple(frames[:-1]), frames[-1], instruction))
    return _not_empty(_FileEdits(folder, edits), metadata)


def hub_edits(name: str, split: str, columns: Sequence[str]) -> EditSource:
    """Reads a data set of the hub, or a folder that ``datasets`` reads.

    Raises:
        DatasetInvalid: it cannot be loaded.
        InvalidParameter: it has no such column; names those it has.
    """
    import datasets

    try:
        rows: Any = datasets.load_dataset(name, split=split)
    except Exception as error:  # every builder raises errors of its own
        raise DatasetInvalid(f"data set {name} cannot be loaded: {error}", field="dataset_name") from error
    for column in columns:
        if column not in rows.column_names:
            known = ", ".join(rows.column_names)
            raise InvalidParameter(f"data set {name} has no column {column!r}; it has {known}")
    return _not_empty(_HubEdits(name, rows, columns), Path(name))


def check_edits(source: EditSource, min_px: int) -> None:
    """Reads every picture once.

    Raises:
        DatasetInvalid: names those that cannot be used.
    """
    bad = []
    for index in range(len(source)):
        try:
            pictures = [*source.frames(index), source.edited(index)]
        except DatasetInvalid as error:
            bad.append(error.message)
            continue
        smallest = min(min(picture.size) for picture in pictures)
        if smallest < min_px:
            bad.append(f"edit {index} ({source.instruction(index)!r}): {smallest} pixels, at least {min_px} are needed")
    if bad:
        more = f"\nand {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise DatasetInvalid("\n".join(bad[:_SHOWN]) + more)


def _metadata(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise DatasetInvalid(f"{folder}: no such folder", field="data_dir")
    if not (folder / name).is_file():
        raise DatasetInvalid(f"{folder}: no {name} in it", field="data_dir")
    return folder / name


def _value(row: dict[str, Any], column: str, where: str, *, first: bool) -> str:
    for key in (column, f"{column}_file_name", *(["file_name"] if first else [])):
        if key in row:
            return str(row[key])
    raise InvalidParameter(f"{where}: no {column!r}; it has {', '.join(row)}")


def _existing(path: Path, where: str) -> Path:
    if not path.is_file():
        raise DatasetInvalid(f"{where}: there is no {path}")
    return path


def _frame(video: Path, number: int) -> Path:
    for suffix in (".jpg", ".png"):
        if (path := video / f"{number:02d}{suffix}").is_file():
            return path
    raise DatasetInvalid(f"{video}: frame {number:02d}.jpg is missing")


def _not_empty(source: EditSource, where: Path) -> EditSource:
    if not len(source):
        raise DatasetInvalid(f"{where} is empty")
    return source
