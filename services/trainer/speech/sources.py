"""Audio with its text, from every layout that is read; nothing is opened before it is asked for.

- a folder in the layout of SOVA: audio files with a ``.txt`` of the same name beside each, at any depth
- a manifest: ``.jsonl``, ``.csv`` or ``.tsv`` with one row a clip, paths inside its folder
- a dataset saved with ``datasets``, its audio in it or in the folder that it lies in; or one of a hub by name
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from narrative.errors import DatasetInvalid
from services.trainer.listing import inside, json_lines, read_text, readable_text

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".webm"})


@dataclass(frozen=True)
class Clip:
    """One recording and what is said in it.

    Attributes:
        name: unique in its dataset; how messages and reports call it.
        audio: the file, or its bytes.
        text: transcript as it came; empty where it is missing.
    """

    name: str
    audio: Path | bytes
    text: str


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a manifest or a dataset."""

    audio: str = "audio"
    text: str = "text"


def open_clips(source: str, columns: Columns, *, hub_split: str = "train") -> Sequence[Clip]:
    """The clips of a folder, a manifest or a dataset.

    Args:
        source: path, or name of a hub dataset.
        columns: names of the columns, where there are columns.
        hub_split: split of a dataset to read.

    Raises:
        DatasetInvalid: nothing there, empty, unreadable, or without those columns; names the file.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _read_manifest(path, columns)
    if path.is_dir() and not _is_saved_dataset(path):
        return _read_folder(path)
    check_there(source)
    return _HubClips(source, columns, hub_split)


def check_there(source: str) -> None:
    """Raises DatasetInvalid for a path where there is nothing; what may be a dataset of a hub is not looked for."""
    if (source.startswith(("/", ".", "~")) or source.count("/") > 1) and not Path(source).expanduser().exists():
        raise DatasetInvalid(f"{source}: no such file or folder", field="dataset")


def _read_folder(folder: Path) -> list[Clip]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
    if not files:
        known = ", ".join(sorted(AUDIO_SUFFIXES))
        raise DatasetInvalid(
            f"{folder} holds no audio files; accepted are {known}, with a .txt of the same name beside"
        )
    return [Clip(path.relative_to(folder).as_posix(), path, _text_beside(path)) for path in files]


def _text_beside(path: Path) -> str:
    beside = path.with_suffix(".txt")
    return read_text(beside).strip() if beside.is_file() else ""


def _read_manifest(path: Path, columns: Columns) -> list[Clip]:
    clips = [_clip(path.parent, where, row, columns) for where, row in _rows(path)]
    if not clips:
        raise DatasetInvalid(f"{path} lists no clips")
    return clips


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows, with what to call each in messages."""
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        yield from json_lines(path)
        return
    if suffix not in (".csv", ".tsv"):
        raise DatasetInvalid(f"{path} is no manifest; accepted are .jsonl, .csv and .tsv, or a folder")
    with readable_text(path), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
        try:
            for row in reader:
                yield f"{path}, line {reader.line_num}", row
        except csv.Error as error:
            raise DatasetInvalid(f"{path}, line {reader.line_num}: {error}") from error


def _clip(folder: Path, where: str, row: dict[str, Any], columns: Columns) -> Clip:
    for column in (columns.audio, columns.text):
        if column not in row:
            raise DatasetInvalid(f"{where}: no column {column!r}; it has {', '.join(map(str, row))}")
    audio = inside(folder, row[columns.audio], where)
    return Clip(row[columns.audio], audio, str(row[columns.text] or "").strip())


def _is_saved_dataset(path: Path) -> bool:
    return any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


class _HubClips(Sequence[Clip]):
    """Rows of an Arrow dataset; the bytes of a clip are read when the clip is."""

    def __init__(self, source: str, columns: Columns, split: str) -> None:
        import datasets

        try:
            self._beside = Path(source).absolute().parent if Path(source).is_dir() else None
            if self._beside:
                rows = datasets.load_from_disk(source)
                rows = rows[split] if isinstance(rows, datasets.DatasetDict) else rows
            else:
                rows = datasets.load_dataset(source, split=split)
            there = rows.column_names
            missing = sorted({columns.audio, columns.text} - set(there))
            if missing:
                raise DatasetInvalid(f"dataset {source} has no column {', '.join(missing)}; it has {', '.join(there)}")
            self._rows = rows.select_columns([columns.audio, columns.text]).cast_column(
                columns.audio, datasets.Audio(decode=False)
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetInvalid(f"dataset {source}, split {split!r}, cannot be opened: {error}") from error
        if not len(self._rows):
            raise DatasetInvalid(f"dataset {source}, split {split!r}, is empty")
        self._columns = columns

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...
    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        row = self._rows[index]
        audio = row[self._columns.audio] or {}
        content = audio.get("bytes")
        where = audio.get("path") or ""
        name = f"row {index}{f' ({Path(where).name})' if where else ''}"
        if content is None:
            content = inside(self._beside, where, name) if self._beside else Path(where)
        return Clip(
            name,
            content,
            str(row[self._columns.text] or "").strip(),
        )
