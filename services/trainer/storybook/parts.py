"""What a machine without a network needs to compose scenes: one small archive of cut-outs and the tokenizer."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from services.trainer.storybook import concepts, cutouts, dataset

_EDITION = "edition"


def icon_files(work_dir: Path) -> dict[str, Path]:
    """Return the icon file of each set: those of an unpacked archive if there is one, else fetched from npm.

    Raises:
        CutoutError: if neither can be had.
    """
    folder = work_dir / "parts" / "cutouts"
    if folder.is_dir():
        return {path.stem: path for path in folder.glob("*.json")}
    return cutouts.fetch(work_dir)


def pack(work_dir: Path, archive: Path) -> None:
    """Write the cut-outs that the concepts use and the tokenizer of ``work_dir`` into a ``.tar.xz``.

    Raises:
        FileNotFoundError: if the tokenizer has not been trained yet.
        CutoutError: if a concept's cut-out is in no set.
    """
    tokenizer = work_dir / "tokenizer"
    if not (tokenizer / "tokenizer.json").exists():
        raise FileNotFoundError(f"no tokenizer in {work_dir}: train it first")
    wanted = {concept.icon for concept in concepts.load().values() if not concept.icon.startswith("@")}
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz") as tar:
        _add(tar, _EDITION, dataset.EDITION.encode())
        for set_name, path in cutouts.fetch(work_dir).items():
            _add(tar, f"cutouts/{set_name}.json", json.dumps(_subset(path, wanted)).encode())
        for path in sorted(tokenizer.iterdir()):
            _add(tar, f"tokenizer/{path.name}", path.read_bytes())


def unpack(archive: Path, work_dir: Path) -> None:
    """Make the archive's cut-outs and tokenizer those of ``work_dir``.

    Raises:
        EditionError: if the archive was packed by another edition of the concepts.
    """
    folder = work_dir / "parts"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    edition = (folder / _EDITION).read_text(encoding="utf-8")
    if edition != dataset.EDITION:
        raise dataset.EditionError(f"{archive} is of edition {edition}, this code plans edition {dataset.EDITION}")
    target = work_dir / "tokenizer"
    target.mkdir(parents=True, exist_ok=True)
    for path in (folder / "tokenizer").iterdir():
        (target / path.name).write_bytes(path.read_bytes())


def _subset(path: Path, wanted: set[str]) -> dict[str, Any]:
    icons: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    aliases = icons.get("aliases", {})
    kept = {}
    for name in sorted(wanted):
        entry = icons["icons"].get(aliases.get(name, {}).get("parent", name))
        if entry is None:
            raise cutouts.CutoutError(f"{path.name} has no cut-out {name!r}")
        kept[name] = entry
    return {key: icons[key] for key in ("width", "height") if key in icons} | {"icons": kept}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
