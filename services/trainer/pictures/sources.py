"""Where training pictures and their captions come from: folders and hub data sets, read one picture at a time."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import PIL.Image

from narrative.errors import DatasetInvalid, InvalidParameter
from narrative.hashing import sha256_of
from services.trainer.listing import inside, json_lines, read_text, string
from services.trainer.pictures.images import SUFFIXES, as_rgb, read_picture, readable

METADATA_NAME = "metadata.jsonl"
_SHOWN = 5


class PictureSource(Protocol):
    """Pictures by number."""

    def __len__(self) -> int:
        """How many."""
        ...

    def picture(self, index: int) -> PIL.Image.Image:
        """Reads a picture as RGB.

        Raises:
            DatasetInvalid: it cannot be read; names it.
        """
        ...

    def caption(self, index: int) -> str | None:
        """Its caption; None where the data has none."""
        ...

    def name(self, index: int) -> str:
        """What to call it in messages."""
        ...

    def digest(self) -> str:
        """Changes when a picture or caption does."""
        ...

    @property
    def passed_over(self) -> Mapping[str, str]:
        """What lies with the data but is not of it, with the reason."""
        ...


@dataclass(frozen=True)
class _File:
    path: Path
    caption: str | None


class FolderSource:
    """A folder of pictures, with captions in ``metadata.jsonl`` or in a ``.txt`` beside each picture, or without.

    Args:
        caption_column: key of the captions in ``metadata.jsonl``; empty to take no captions from anywhere.

    Raises:
        DatasetInvalid: no folder, no pictures, captions without pictures, pictures without captions.
    """

    def __init__(self, folder: Path, caption_column: str = "text", field: str = "dataset_dir") -> None:
        self._folder = folder
        if not folder.is_dir():
            raise DatasetInvalid(f"{folder}: no such folder", field=field)
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
        if not paths:
            kinds = ", ".join(sorted(SUFFIXES))
            raise DatasetInvalid(f"{folder}: no pictures in it ({kinds})", field=field)
        metadata = folder / METADATA_NAME
        self.passed_over: Mapping[str, str] = {}
        if caption_column and metadata.is_file():
            self._files = _with_metadata(metadata, caption_column)
            listed = {file.path.absolute() for file in self._files}
            self.passed_over = {str(path): f"not in {METADATA_NAME}" for path in paths if path.absolute() not in listed}
        elif caption_column:
            self._files = _with_text_files(folder, paths)
        else:
            self._files = [_File(path, None) for path in paths]

    def __len__(self) -> int:
        return len(self._files)

    def picture(self, index: int) -> PIL.Image.Image:
        return read_picture(self._files[index].path)

    def caption(self, index: int) -> str | None:
        return self._files[index].caption

    def name(self, index: int) -> str:
        return str(self._files[index].path)

    def digest(self) -> str:
        lines = [
            f"{os.path.relpath(file.path, self._folder)}\0{sha256_of(file.path)}\0{file.caption or ''}\n"
            for file in self._files
        ]
        return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


class HubSource:
    """A data set of the hub, or a folder or file that ``datasets`` reads, by its columns.

    Raises:
        DatasetInvalid: it cannot be loaded, or is empty.
        InvalidParameter: it has no such column; names those it has.
    """

    def __init__(self, name: str, config_name: str | None, split: str, image_column: str, caption_column: str) -> None:
        import datasets

        self._name, self._image_column, self._caption_column = name, image_column, caption_column
        self.passed_over: Mapping[str, str] = {}
        try:
            self._rows: Any = datasets.load_dataset(name, config_name, split=split)
        except Exception as error:  # every builder raises errors of its own
            raise DatasetInvalid(f"data set {name} cannot be loaded: {error}", field="dataset_name") from error
        if not len(self._rows):
            raise DatasetInvalid(f"data set {name} is empty", field="dataset_name")
        for column, setting in ((image_column, "image_column"), (caption_column, "caption_column")):
            if column and column not in self._rows.column_names:
                known = ", ".join(self._rows.column_names)
                raise InvalidParameter(f"data set {name} has no column {column!r}; it has {known}", field=setting)
        if not isinstance(self._rows.features[image_column], datasets.Image):
            raise InvalidParameter(f"column {image_column!r} of {name} holds no pictures", field="image_column")

    def __len__(self) -> int:
        return len(self._rows)

    def picture(self, index: int) -> PIL.Image.Image:
        with readable(self.name(index)):
            return as_rgb(self._rows[index][self._image_column])

    def caption(self, index: int) -> str | None:
        if not self._caption_column:
            return None
        return string(self._rows[self._caption_column][index], f"{self.name(index)}: {self._caption_column!r}")

    def name(self, index: int) -> str:
        return f"{self._name}, row {index}"

    def digest(self) -> str:
        return f"datasets:{self._rows._fingerprint}"


class Subset:
    """Some pictures of a source."""

    def __init__(self, source: PictureSource, indices: Sequence[int]) -> None:
        self._source, self._indices = source, list(indices)
        self.passed_over = source.passed_over

    def __len__(self) -> int:
        return len(self._indices)

    def picture(self, index: int) -> PIL.Image.Image:
        return self._source.picture(self._indices[index])

    def caption(self, index: int) -> str | None:
        return self._source.caption(self._indices[index])

    def name(self, index: int) -> str:
        return self._source.name(self._indices[index])

    def digest(self) -> str:
        chosen = hashlib.sha256(repr(self._indices).encode()).hexdigest()
        return f"{self._source.digest()}[{chosen[:16]}]"


def check_pictures(source: PictureSource, min_px: int, *, skip: bool) -> tuple[PictureSource, list[str]]:
    """Reads every picture once; returns those that can be used, and what is left out and why.

    Raises:
        DatasetInvalid: there are bad ones and they are not to be skipped, or no others are left.
    """
    good, bad = [], []
    for index in range(len(source)):
        try:
            width, height = source.picture(index).size
        except DatasetInvalid as error:
            bad.append(error.message)
            continue
        if min(width, height) < min_px:
            bad.append(f"{source.name(index)}: {width}x{height} pixels, at least {min_px} a side are needed")
        else:
            good.append(index)
    if bad and (not skip or not good):
        more = f"\nand {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        hint = "\n(--skip-bad-images leaves them out)" if good else ""
        raise DatasetInvalid("\n".join(bad[:_SHOWN]) + more + hint)
    return (Subset(source, good) if bad else source), [*bad, *map(": ".join, source.passed_over.items())]


def _with_metadata(metadata: Path, caption_column: str) -> list[_File]:
    files = []
    for where, row in json_lines(metadata):
        if "file_name" not in row:
            raise DatasetInvalid(f'{where}: no "file_name"')
        if caption_column not in row:
            known = ", ".join(name for name in row if name != "file_name")
            raise InvalidParameter(f"{where}: no {caption_column!r}; it has {known}", field="caption_column")
        path = inside(metadata.parent, row["file_name"], where)
        if not path.is_file():
            raise DatasetInvalid(f"{where}: {row['file_name']} is captioned, but there is no such picture")
        files.append(_File(path, string(row[caption_column], f"{where}: {caption_column!r}")))
    if not files:
        raise DatasetInvalid(f"{metadata} is empty")
    return files


def _with_text_files(folder: Path, paths: list[Path]) -> list[_File]:
    captions = {path.with_suffix(""): path for path in sorted(folder.rglob("*.txt"))}
    pictures = {path.with_suffix("") for path in paths}
    beside = [stem for stem in captions if stem in pictures]
    if not beside:
        # Other text, such as a licence, is not about one picture.
        if len(captions) < max(2, len(paths)):
            return [_File(path, None) for path in paths]
        raise DatasetInvalid(f"{folder}: {len(captions)} .txt files, but none has the name of a picture")
    for stem, text in captions.items():
        if stem not in pictures:
            raise DatasetInvalid(f"{text}: a caption, but there is no picture of that name")
    for path in paths:
        if path.with_suffix("") not in captions:
            raise DatasetInvalid(f"{path}: no caption in {path.with_suffix('.txt').name}, though others have one")
    return [_File(path, read_text(captions[path.with_suffix("")]).strip()) for path in paths]
