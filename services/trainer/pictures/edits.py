"""Edited pictures with their originals and instructions, from folders, videos and hub data sets."""

import hashlib
import json
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import PIL.Image

from narrative.errors import DatasetInvalid, InvalidParameter
from narrative.hashing import sha256_of
from services.trainer.pictures.images import as_rgb, read_picture

VIDEO_METADATA_NAME = "metadata.json"
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
class Edit:
    """An edit whose pictures are files."""

    frames: tuple[Path, ...]
    edited: Path
    instruction: str


class FileEdits:
    """Edits in files."""

    def __init__(self, edits: list[Edit]) -> None:
        self.edits = edits

    def __len__(self) -> int:
        return len(self.edits)

    def frames(self, index: int) -> list[PIL.Image.Image]:
        return [read_picture(path) for path in self.edits[index].frames]

    def edited(self, index: int) -> PIL.Image.Image:
        return read_picture(self.edits[index].edited)

    def instruction(self, index: int) -> str:
        return self.edits[index].instruction

    def digest(self) -> str:
        digest = hashlib.sha256()
        for edit in self.edits:
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


class _ArrowVideoEdits(_HubEdits):
    """The originals are paths, opened when they are asked for."""

    def frames(self, index: int) -> list[PIL.Image.Image]:
        return [read_picture(Path(path)) for path in self._rows[self._input][index]]


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
        edits.append(Edit((_existing(folder / original, where),), _existing(folder / edited, where), instruction))
    _not_empty(edits, metadata)
    return FileEdits(edits)


def video_edits(folder: Path, num_frames: int) -> FileEdits:
    """Reads ``metadata.json``: ``[{"video_path", "instruction"}]``, paths relative to the folder.

    A video is a folder of ``00.jpg`` to the last frame, and one more: the edited one (``.png`` is read too).

    Raises:
        DatasetInvalid: no metadata, a frame that is missing.
    """
    edits = []
    for path, instruction in read_video_metadata(folder):
        frames = [_frame(folder / path, number) for number in range(num_frames + 1)]
        edits.append(Edit(tuple(frames[:-1]), frames[-1], instruction))
    return FileEdits(edits)


def read_video_metadata(folder: Path) -> list[tuple[str, str]]:
    """Video folders and instructions.

    Raises:
        DatasetInvalid: no ``metadata.json``, or not of its form.
    """
    metadata = _metadata(folder, VIDEO_METADATA_NAME)
    try:
        content = json.loads(metadata.read_text(encoding="utf-8"))
        rows = [(str(row["video_path"]), str(row["instruction"])) for row in content]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetInvalid(f'{metadata}: [{{"video_path": ..., "instruction": ...}}] is expected') from error
    _not_empty(rows, metadata)
    return rows


def arrow_video_edits(folder: Path, num_frames: int) -> EditSource:
    """Reads a data set that ``services.trainer.pictures.videos build`` made.

    Raises:
        DatasetInvalid: it is none, or its videos have another number of frames.
    """
    import datasets

    try:
        rows: Any = datasets.load_from_disk(str(folder))
        counts = {len(frames) for frames in rows["input_frames"]}
    except Exception as error:  # damaged files raise errors of every kind
        raise DatasetInvalid(f"{folder}: not a built data set of videos: {error}", field="data_dir") from error
    if counts != {num_frames}:
        raise DatasetInvalid(f"{folder}: {sorted(counts)} frames a video, not {num_frames}", field="num_frames")
    return _ArrowVideoEdits(str(folder), rows, ("input_frames", "edit_prompt", "edited_image"))


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
    _not_empty(rows, Path(name))
    return _HubEdits(name, rows, columns)


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


def _not_empty(rows: Sized, where: Path) -> None:
    if not len(rows):
        raise DatasetInvalid(f"{where} is empty")
