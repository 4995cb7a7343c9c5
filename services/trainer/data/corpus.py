"""One class for data sets of every kind: sound with text, pictures with text, edits by instruction.

What is inside is read by the sources that the recipes use; here it only gets one form.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import PIL.Image

from narrative.errors import DatasetInvalid, InvalidParameter
from services.trainer.pictures.edits import VIDEO_METADATA_NAME, EditSource, folder_edits, hub_edits, video_edits
from services.trainer.pictures.images import SUFFIXES
from services.trainer.pictures.sources import METADATA_NAME, FolderSource, HubSource, PictureSource
from services.trainer.speech.audio import Audio, decode
from services.trainer.speech.sources import AUDIO_SUFFIXES, Columns, open_clips

Kind = Literal["sound", "pictures", "edits"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_MANIFESTS = frozenset({".jsonl", ".csv", ".tsv"})
_MAX_S = 3600.0


@dataclass(frozen=True)
class Layout:
    """What things are called in a source; what a kind does not have does not count."""

    audio_column: str = "audio"
    image_column: str = "image"
    text_column: str = "text"
    edit_columns: tuple[str, str, str] = ("input_image", "edit_prompt", "edited_image")
    num_frames: int = 20
    split: str = "train"


@dataclass(frozen=True)
class Item:
    """One example.

    Attributes:
        name: how messages call it.
        text: what is said, shown or asked for, as it came; empty where there is none.
        sound: float32 (samples,), [-1, 1], 16 kHz mono; None where the data has no sound.
        pictures: RGB; of an edit the original or its frames, and the edited picture last.
    """

    name: str
    text: str
    sound: Audio | None = None
    pictures: tuple[PIL.Image.Image, ...] = ()


class Corpus:
    """A data set, whatever it holds; an item is opened when it is asked for, and nothing is kept.

    Args:
        names: how items are called; known without opening them.
        read: opens one by its number.
        passed_over: what lies with the items but is none, with the reason.
    """

    def __init__(
        self, kind: Kind, names: list[str], read: Callable[[int], Item], passed_over: Mapping[str, str] | None = None
    ) -> None:
        self.kind, self.names, self._read, self.passed_over = kind, names, read, passed_over or {}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Item:
        """Opens one item.

        Raises:
            AudioUndecodable, DatasetInvalid: it cannot be read; names it.
            IndexError: there are not so many.
        """
        return self._read(range(len(self))[index])

    def __iter__(self) -> Iterator[Item]:
        return map(self.__getitem__, range(len(self)))


def open_corpus(source: str, kind: Kind | None = None, layout: Layout | None = None) -> Corpus:
    """Opens a folder, a manifest or a data set of the hub.

    Args:
        kind: what it holds; None to look, which a name of the hub does not allow.

    Raises:
        DatasetInvalid: nothing there, nothing of the kind in it, or several kinds.
        InvalidParameter: the kind must be said, or a column is missing.
    """
    layout, path = layout or Layout(), Path(source).expanduser()
    opened = {"sound": _sound, "pictures": _pictures, "edits": _edits}
    return opened[kind or _kind_of(path, source, layout)](source, path, layout)


def _kind_of(path: Path, source: str, layout: Layout) -> Kind:
    if path.is_file() and path.suffix.lower() in _MANIFESTS:
        return "sound"
    if not path.is_dir():
        if path.exists() or source.startswith(("/", ".", "~")):
            raise DatasetInvalid(f"{source}: no such folder or manifest")
        raise InvalidParameter(f"say with --kind what {source} holds: {', '.join(KINDS)}", field="kind")
    if (path / VIDEO_METADATA_NAME).is_file() or _lists_edits(path / METADATA_NAME, layout):
        return "edits"
    there = {file.suffix.lower() for file in path.rglob("*") if file.is_file()}
    found: list[Kind] = [
        *(["sound"] if there & AUDIO_SUFFIXES else []),  # type: ignore[list-item]
        *(["pictures"] if there & SUFFIXES else []),  # type: ignore[list-item]
    ]
    if len(found) != 1:
        what = "sound and pictures" if found else "neither sound nor pictures"
        raise DatasetInvalid(f"{path}: {what} in it; --kind says what counts", field="kind")
    return found[0]


def _lists_edits(metadata: Path, layout: Layout) -> bool:
    """Whether the first line tells of an edited picture; whoever reads it says what is wrong with it."""
    if not metadata.is_file():
        return False
    try:
        row = json.loads(metadata.read_text(encoding="utf-8").splitlines()[0])
    except (OSError, ValueError, IndexError):
        return False
    edited = layout.edit_columns[-1]
    return isinstance(row, dict) and not row.keys().isdisjoint({edited, f"{edited}_file_name"})


def _sound(source: str, path: Path, layout: Layout) -> Corpus:
    del path
    clips = open_clips(source, Columns(layout.audio_column, layout.text_column), hub_split=layout.split)

    def read(index: int) -> Item:
        clip = clips[index]
        return Item(clip.name, clip.text, sound=decode(clip.audio, clip.name, max_s=_MAX_S))

    names = [clip.name for clip in clips] if isinstance(clips, list) else _numbered("row", len(clips))
    return Corpus("sound", names, read)


def _pictures(source: str, path: Path, layout: Layout) -> Corpus:
    found: PictureSource
    if path.is_dir():
        found = FolderSource(path, layout.text_column, field="source")
    else:
        found = HubSource(source, None, layout.split, layout.image_column, layout.text_column)

    def read(index: int) -> Item:
        return Item(found.name(index), found.caption(index) or "", pictures=(found.picture(index),))

    return Corpus("pictures", [found.name(index) for index in range(len(found))], read, found.passed_over)


def _edits(source: str, path: Path, layout: Layout) -> Corpus:
    found: EditSource
    if not path.is_dir():
        found = hub_edits(source, layout.split, layout.edit_columns)
    elif (path / VIDEO_METADATA_NAME).is_file():
        found = video_edits(path, layout.num_frames)
    else:
        found = folder_edits(path, layout.edit_columns)
    names = _numbered("edit", len(found))

    def read(index: int) -> Item:
        return Item(names[index], found.instruction(index), pictures=(*found.frames(index), found.edited(index)))

    return Corpus("edits", names, read)


def _numbered(what: str, num: int) -> list[str]:
    return [f"{what} {index}" for index in range(num)]
