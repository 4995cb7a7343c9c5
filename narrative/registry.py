"""What was trained, by name, in the object store, where every service sees it.

    adapters/seal/entry.json                          what it is, and its files with their digests; written last
    adapters/seal/4be2.../pytorch_lora_weights.safetensors    the files of that version

A version is whole or not there. A service works on copies in a folder of its own (``LocalCopies``).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from narrative.errors import InvalidParameter, NotFound, WeightsCorrupt
from narrative.hashing import sha256_of

if TYPE_CHECKING:
    # A training knows names long before it publishes under one, and its memory is for the training.
    from narrative.objects import Objects

ADAPTERS = "adapters"
SPEECH_MODELS = "speech-models"
PICTURE_MODELS = "picture-models"
ENTRY_NAME = "entry.json"
# A name is one path component: it cannot climb out of its folder.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Somebody may replace an entry between the look at it and the look at its files.
_ATTEMPTS = 3


@dataclass(frozen=True)
class StoredFile:
    """A file of an entry; ``sha256`` is hexadecimal."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Entry:
    """Something that was published.

    Attributes:
        version: changes with the files and with the description.
        created_at: UTC, RFC 3339.
        description: what is known of it: base, rank, trigger word, metrics, data digest, licence and more.
    """

    name: str
    version: str
    created_at: str
    description: Mapping[str, Any]
    files: tuple[StoredFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


class Registry:
    """Entries of one kind.

    Args:
        kind: their folder in the object store, ``ADAPTERS``, ``SPEECH_MODELS`` or ``PICTURE_MODELS``.
        missing: what is raised where there is no such entry.
        field: the field it names.
    """

    def __init__(self, objects: Objects, kind: str, missing: type[NotFound] = NotFound, field: str = "name") -> None:
        self._objects, self._kind, self._missing, self._field = objects, kind, missing, field

    async def publish(self, name: str, files: Mapping[str, Path], description: Mapping[str, Any]) -> Entry:
        """Stores an entry; it takes the place of an earlier one of its name when it is whole.

        Args:
            files: by the name they are to have.

        Raises:
            InvalidParameter: not a name.
        """
        self._check(name)
        stored = tuple(StoredFile(file, sha256_of(path), path.stat().st_size) for file, path in sorted(files.items()))
        content = json.dumps([*map(asdict, stored), dict(description)], sort_keys=True, default=str)
        version = hashlib.sha256(content.encode()).hexdigest()[:32]
        entry = Entry(name, version, datetime.now(UTC).isoformat(timespec="seconds"), description, stored)
        earlier = await self.find(name)
        for file, path in files.items():
            with path.open("rb") as opened:
                await self._objects.put(self.key(entry, file), opened)
        text = json.dumps(asdict(entry), ensure_ascii=False, default=str)
        await self._objects.put(f"{self._kind}/{name}/{ENTRY_NAME}", text.encode())
        if earlier is not None and earlier.version != version:
            await self._objects.delete_folder(f"{self._kind}/{name}/{earlier.version}")
        return entry

    async def entry(self, name: str) -> Entry:
        """One of them.

        Raises:
            InvalidParameter: not a name.
            NotFound: names those there are.
        """
        self._check(name)
        entry = await self.find(name)
        if entry is None:
            known = ", ".join(await self.names()) or "none"
            raise self._missing(f"no {_noun(self._kind)} {name!r}; there are: {known}", field=self._field)
        return entry

    async def find(self, name: str) -> Entry | None:
        """One of them, None where there is none; what an upload that was cut off left is none."""
        try:
            content = json.loads(await self._objects.get(f"{self._kind}/{name}/{ENTRY_NAME}"))
        except NotFound:
            return None
        return Entry(**{**content, "files": tuple(_stored_file(file) for file in content["files"])})

    async def names(self) -> list[str]:
        """The names of all, sorted."""
        folders = await self._objects.folders(f"{self._kind}/")
        return sorted(folder.rstrip("/").rpartition("/")[2] for folder in folders)

    async def entries(self) -> list[Entry]:
        """All of them, by name."""
        found = [await self.find(name) for name in await self.names()]
        return [entry for entry in found if entry is not None]

    async def delete(self, name: str) -> None:
        """Removes an entry.

        Raises:
            InvalidParameter, NotFound: as ``entry``.
        """
        await self.entry(name)
        await self._objects.delete_folder(f"{self._kind}/{name}")

    def stream(self, entry: Entry, file: str) -> AsyncIterator[bytes]:
        """Yields the bytes of a file of an entry; raises NotFound where it was replaced meanwhile."""
        return self._objects.stream(self.key(entry, file))

    async def fetch(self, entry: Entry, folder: Path) -> None:
        """Brings the files of an entry into ``folder``.

        Raises:
            NotFound: it was replaced or deleted meanwhile.
            WeightsCorrupt: what came is not what was published.
        """
        for file in entry.files:
            target = folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with target.open("wb") as opened:
                async for piece in self.stream(entry, file.name):
                    opened.write(piece)
                    digest.update(piece)
            if digest.hexdigest() != file.sha256:
                raise WeightsCorrupt(
                    f"{_noun(self._kind)} {entry.name!r}: {file.name} in the object store is not what was published"
                )

    def key(self, entry: Entry, file: str) -> str:
        """Where in the object store a file of an entry is, or something made of it that is to go with it."""
        return f"{self._kind}/{entry.name}/{entry.version}/{file}"

    def _check(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise InvalidParameter(
                f"{name[:80]!r} is not a name; letters, digits, '.', '_' and '-' are accepted, at most 64",
                field=self._field,
            )


class LocalCopies:
    """Copies of entries in a folder, each brought when it is first asked for and checked against its digests.

    The registry is looked at every time, so that a new version is taken and a deleted entry goes at once. Several
    processes may share the folder.
    """

    def __init__(self, registry: Registry, folder: Path) -> None:
        self._registry, self._folder = registry, folder
        self._checked: dict[str, str] = {}
        self._lock = threading.Lock()

    async def folder_of(self, name: str) -> Path:
        """The folder of the present version of an entry; blocks while it copies, so it is for worker threads.

        Raises:
            InvalidParameter: not a name.
            NotFound: there is no such entry, or none any more; its copy is gone then.
            WeightsCorrupt: it came broken from the object store.
        """
        for attempt in range(_ATTEMPTS):
            try:
                entry = await self._registry.entry(name)
            except NotFound:
                self.evict(name)
                raise
            try:
                return await self._copy(entry)
            except NotFound:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError

    def evict(self, name: str) -> None:
        """Removes the copy of an entry, where there is one."""
        with self._lock:
            self._checked.pop(name, None)
            shutil.rmtree(self._folder / name, ignore_errors=True)

    async def _copy(self, entry: Entry) -> Path:
        target = self._folder / entry.name
        if self._checked.get(entry.name) == entry.version and target.is_dir():
            return target
        if not _is_whole(target, entry):
            partial = self._folder / f".{entry.name}.{entry.version}.{threading.get_ident()}"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            try:
                await self._registry.fetch(entry, partial)
                (partial / ENTRY_NAME).write_text(json.dumps({"version": entry.version}), encoding="utf-8")
                with self._lock:
                    # Somebody else may have been faster, and their readers must not lose it again.
                    if not _is_whole(target, entry):
                        _replace(target, partial)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        self._checked[entry.name] = entry.version
        return target


def _replace(target: Path, source: Path) -> None:
    if target.exists():
        earlier = source.with_name(f"{source.name}.earlier")
        target.rename(earlier)
        shutil.rmtree(earlier, ignore_errors=True)
    source.rename(target)


def _is_whole(folder: Path, entry: Entry) -> bool:
    """Whether a folder holds a version of an entry, bit for bit."""
    try:
        version = json.loads((folder / ENTRY_NAME).read_text(encoding="utf-8"))["version"]
        return version == entry.version and all(sha256_of(folder / file.name) == file.sha256 for file in entry.files)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _stored_file(content: Mapping[str, Any]) -> StoredFile:
    path = PurePosixPath(content["name"])
    if path.is_absolute() or ".." in path.parts:
        raise WeightsCorrupt(f"{path} leads out of its entry in the object store")
    return StoredFile(str(path), str(content["sha256"]), int(content["size_bytes"]))


def _noun(kind: str) -> str:
    return kind.replace("-", " ").removesuffix("s")
