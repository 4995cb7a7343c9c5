"""The folder of a story: its files, and what an earlier story left there."""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from narrative.cli.client import Client

# A recording too long to be put into the page is linked beside it.
_LINKED_AUDIO = re.compile(rb'(<audio\b[^>]*\ssrc=)"audio"')
_OWN_NAME = re.compile(r"[0-9]+\.png|audio(-[0-9]+)?(\.[a-z0-9]{1,8})?")


def default_folder(file: Path, sha256: str) -> Path:
    """Folder for the story of a recording: that of its name, with a number where another recording's story is there.

    Args:
        sha256: of the recording.
    """
    return next(folder for folder in _folders(file) if _is_of(_earlier_story(folder), file.name, sha256))


@contextmanager
def own_folder(file: Path, sha256: str) -> Iterator[Path]:
    """The default folder for the story of a recording, made, and nobody else's as long as the block lasts.

    Where another story is just being written, it waits: only then can be seen whose it is.

    Args:
        sha256: of the recording.
    """
    for folder in _folders(file):
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if _is_of(_earlier_story(folder), file.name, sha256):
                yield folder
                return


def write_story(client: Client, narrative_id: str, folder: Path, sha256: str) -> None:
    """Writes a story into a folder, and removes what only an earlier story there has.

    The pictures and story.html, the recording where the page links it, and, when all that is there, story.json.

    Args:
        sha256: of the recording; story.json keeps it, to know the recording again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _files_of(_earlier_story(folder))
    base = f"/v1/narratives/{narrative_id}"
    told = client.document("GET", f"{base}/story.json", "speakers")
    told["recording_sha256"] = sha256
    for speaker in told["speakers"]:
        for image in speaker["images"]:
            image["file"] = f"{image['index']}.png"
            (folder / image["file"]).write_bytes(client.request("GET", f"{base}/images/{image['index']}").content)
    page = client.request("GET", f"{base}/story.html").content
    if _LINKED_AUDIO.search(page):
        told["audio_file"] = name = _audio_name(folder, _suffix(told.get("filename", "")), earlier)
        client.download(f"{base}/audio", folder / name)
        page = _LINKED_AUDIO.sub(rf'\g<1>"{name}"'.encode(), page, count=1)
    (folder / "story.html").write_bytes(page)
    for name in earlier - _files_of(told):
        (folder / name).unlink(missing_ok=True)
    part = folder / "story.json.part"
    part.write_text(json.dumps(told, ensure_ascii=False, indent=2), encoding="utf-8")
    part.replace(folder / "story.json")


def _folders(file: Path) -> Iterator[Path]:
    """Where the story of a recording may go, the best first."""
    yield Path("stories") / file.stem
    for number in count(2):
        yield Path("stories") / f"{file.stem}-{number}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Waits for whoever has a folder and has it then; a program that is killed has it no longer."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Not every file system knows locks, and a story that was told is to be written.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _earlier_story(folder: Path) -> dict[str, Any]:
    """What the story.json of a folder tells; nothing where there is none."""
    try:
        told = json.loads((folder / "story.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _is_of(told: dict[str, Any], filename: str, sha256: str) -> bool:
    if "recording_sha256" in told:
        return bool(told["recording_sha256"] == sha256)
    # Earlier versions wrote only the name.
    return bool(told.get("filename", filename) == filename)


def _files_of(told: dict[str, Any]) -> set[str]:
    """Names of the files beside a story.json that are the story's; only such as are written here."""
    try:
        names = {str(image.get("file")) for speaker in told["speakers"] for image in speaker["images"]}
    except (KeyError, TypeError, AttributeError):
        return set()
    return {name for name in names | {str(told.get("audio_file"))} if _OWN_NAME.fullmatch(name)}


def _audio_name(folder: Path, suffix: str, earlier: set[str]) -> str:
    """A name for the recording that is no other file's: somebody's own may lie in the folder."""
    names = (f"audio{number}{suffix}" for number in ("", *(f"-{n}" for n in range(2, 10_000))))
    return next(name for name in names if name in earlier or not (folder / name).exists())


def _suffix(filename: str) -> str:
    """What tells a browser the container of a recording; nothing that would need quoting in the page."""
    suffix = Path(filename).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""
