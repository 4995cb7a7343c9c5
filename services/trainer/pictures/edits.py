"""Edited pictures with their originals and instructions, from folders, videos and hub data sets."""

import hashlib
import io
import json
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import PIL.Image

from narrative.errors import DatasetInvalid, InvalidParameter
from narrative.hashing import sha256_of
from services.trainer.listing import inside, json_lines, read_text, string
from services.trainer.pictures.images import as_rgb, read_picture, readable

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
        return string(self._rows[self._prompt][index], f"{self._name}, row {index}: {self._prompt!r}")

    def digest(self) -> str:
        return f"datasets:{self._rows._fingerprint}"

    def _picture(self, index: int, column: str) -> PIL.Image.Image:
        with readable(f"{self._name}, row {index}, {column}"):
            return as_rgb(self._rows[index][column])


class _ArrowVideoEdits(_HubEdits):
    """The originals are paths in the folder that the data set lies in, opened when they are asked for."""

    def __init__(self, folder: Path, rows: Any) -> None:
        super().__init__(str(folder), rows, ("input_frames", "edit_prompt", "edited_image"))
        self._beside = folder.absolute().parent

    def frames(self, index: int) -> list[PIL.Image.Image]:
        where = f"{self._name}, row {index}"
        return [read_picture(inside(self._beside, path, where)) for path in self._rows[self._input][index]]

    def edited(self, index: int) -> PIL.Image.Image:
        content = self._rows[index][self._edited]["bytes"]
        if content is None:
            raise DatasetInvalid(f"{self._name}, row {index}: the edited picture is not in the data set")
        with readable(f"{self._name}, row {index}, {self._edited}"), PIL.Image.open(io.BytesIO(content)) as opened:
            return as_rgb(opened)


def folder_edits(folder: Path, columns: Sequence[str]) -> EditSource:
    """Reads ``metadata.jsonl``; keys may also end in ``_file_name``, and ``file_name`` may stand for the original.

    Raises:
        DatasetInvalid: no folder, no metadata, a picture that is missing.
        InvalidParameter: a line without one of the columns.
    """
    metadata = _metadata(folder, "metadata.jsonl")
    edits = []
    for where, row in json_lines(metadata):
        original, instruction, edited = (_value(row, column, where, first=column == columns[0]) for column in columns)
        edits.append(Edit((_existing(folder, original, where),), _existing(folder, edited, where), instruction))
    _not_empty(edits, metadata)
    return FileEdits(edits)


def video_edits(folder: Path, num_frames: int) -> FileEdits:
    """Reads ``metadata.json``: ``[{"video_path", "instruction"}]``, paths relative to the folder.

    A video is a folder of ``00.jpg`` to the last frame, and one more: the edited one (``.png`` is read too).

    Raises:
        DatasetInvalid: no metadata, a frame that is missing.
    """
    edits = []
    for video, instruction in read_video_metadata(folder):
        frames = [_frame(video, number) for number in range(num_frames + 1)]
        edits.append(Edit(tuple(frames[:-1]), frames[-1], instruction))
    return FileEdits(edits)


def read_video_metadata(folder: Path) -> list[tuple[Path, str]]:
    """Video folders and instructions.

    Raises:
        DatasetInvalid: no ``metadata.json``, not of its form, or a video outside the folder.
    """
    metadata = _metadata(folder, VIDEO_METADATA_NAME)
    try:
        rows = [(row["video_path"], row["instruction"]) for row in json.loads(read_text(metadata))]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetInvalid(f'{metadata}: [{{"video_path": ..., "instruction": ...}}] is expected') from error
    _not_empty(rows, metadata)
    return [
        (inside(folder, path, f"{metadata}, video {number}"), string(instruction, f"{metadata}: instruction {number}"))
        for number, (path, instruction) in enumerate(rows)
    ]


def arrow_video_edits(folder: Path, num_frames: int) -> EditSource:
    """Reads a data set that ``services.trainer.pictures.videos build`` made.

    Raises:
        DatasetInvalid: it is none, or its videos have another number of frames. When a frame is asked for that does
            not lie in the folder that the data set lies in, too.
    """
    import datasets

    try:
        rows: Any = datasets.load_from_disk(str(folder))
        rows = rows.cast_column("edited_image", datasets.Image(decode=False))
        counts = {len(frames) for frames in rows["input_frames"]}
    except Exception as error:  # damaged files raise errors of every kind
        raise DatasetInvalid(f"{folder}: not a built data set of videos: {error}", field="data_dir") from error
    if counts != {num_frames}:
        raise DatasetInvalid(f"{folder}: {sorted(counts)} frames a video, not {num_frames}", field="num_frames")
    return _ArrowVideoEdits(folder, rows)


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
            return string(row[key], f"{where}: {key!r}")
    raise InvalidParameter(f"{where}: no {column!r}; it has {', '.join(row)}")


def _existing(folder: Path, name: str, where: str) -> Path:
    path = inside(folder, name, where)
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
