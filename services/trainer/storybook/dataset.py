"""Training pictures on disk: shards of composed scenes, each written once and found again by its seed."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.trainer.storybook import concepts, cutouts
from services.trainer.storybook.captions import caption
from services.trainer.storybook.plan import MAX_SUBJECTS, Planner
from services.trainer.storybook.scenes import Composer

SHARD_SCENES = 500
PATCH_PX = 8
"""Side of what one cell of a latent stands for."""

EDITION = "4"
"""Changes whenever the same seed would give another scene, so that captions are never put to pictures of another."""


class EditionError(ValueError):
    """Scenes on disk were composed by another edition of the concepts and the planner."""


def check_edition(work_dir: Path) -> None:
    """Raise ``EditionError`` unless the shards of ``work_dir``, if any, are of the present edition."""
    folder = work_dir / "scenes"
    found, _ = _mark(work_dir)
    if found != EDITION and any(folder.glob("*.npy")):
        raise EditionError(
            f"{folder} holds scenes of edition {found}, but this code plans edition {EDITION}: their captions would "
            "not fit; compose new ones in another --work-dir (the tokenizer and text_to_image.pt may be copied there)"
        )


def things(work_dir: Path) -> int:
    """Return of how many of the commonest things the scenes of ``work_dir`` are; 0 for all."""
    return _mark(work_dir)[1]


def keep_to(work_dir: Path, things: int) -> None:
    """Have the scenes of ``work_dir`` composed of so many of the commonest things; 0 for all.

    Raises:
        EditionError: if scenes of another edition, or of another number of things, are there.
    """
    check_edition(work_dir)
    folder = work_dir / "scenes"
    if _mark(work_dir)[1] != things and any(folder.glob("*.npy")):
        raise EditionError(f"{folder} holds scenes of another number of things; take another --work-dir")
    _set_mark(work_dir, things)


def known(work_dir: Path) -> dict[str, concepts.Concept]:
    """Return the things that the scenes of ``work_dir`` may show: all, or the commonest it was begun with."""
    count = things(work_dir)
    return concepts.commonest(concepts.load(), count) if count else concepts.load()


def open_composer(work_dir: Path, size_px: int) -> Composer:
    """Fetch what is missing and return a composer over the real cut-outs."""
    return Composer(cutouts.CutoutLibrary(cutouts.fetch(work_dir)), known(work_dir), size_px)


def shard_path(work_dir: Path, size_px: int, shard: int) -> Path:
    """Return where a shard lies: uint8 (``SHARD_SCENES``, size, size, 3), scene ``i`` has seed ``shard * n + i``."""
    return work_dir / "scenes" / f"{size_px}px-{shard:05d}.npy"


def write_shards(work_dir: Path, size_px: int, first: int, last: int, things: int = 0) -> None:
    """Compose shards ``first`` to ``last`` (excluded), and what part of each patch things cover; those there are kept.

    Args:
        things: of so many of the commonest things; 0 for all.

    Raises:
        EditionError: if the folder holds scenes of another edition, or of another number of things.
    """
    keep_to(work_dir, things)
    composer = open_composer(work_dir, size_px)
    for shard in range(first, last):
        path = shard_path(work_dir, size_px, shard)
        compose_shard(composer, path, cover_path(path))


def compose_shard(composer: Composer, path: Path, cover: Path | None = None, centres: Path | None = None) -> None:
    """Compose the scenes of one shard, unless it is there.

    Args:
        cover: where to keep what part of each patch of 8 x 8 pixels things cover: uint8 (n, size/8, size/8).
        centres: where to keep ``Scene.centres``: float32 (n, ``MAX_SUBJECTS``, 2), 0 where there is no such subject.
    """
    if path.exists():
        return
    if not (path.parent / "edition").exists():
        _set_mark(path.parent.parent, 0)
    scenes = [composer.compose(seed) for seed in seeds_of(path)]
    if cover is not None:
        cover.parent.mkdir(parents=True, exist_ok=True)
        np.save(cover, np.stack([np.asarray(scene.cover.reduce(PATCH_PX)) for scene in scenes]))
    if centres is not None:
        table = np.zeros((len(scenes), MAX_SUBJECTS, 2), np.float32)
        for row, scene in zip(table, scenes, strict=True):
            row[: len(scene.centres)] = np.array(scene.centres).reshape(-1, 2)
        centres.parent.mkdir(parents=True, exist_ok=True)
        np.save(centres, table)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, np.stack([np.asarray(scene.image) for scene in scenes]))
    temporary.rename(path)  # a shard is either whole or absent


def cover_path(shard: Path) -> Path:
    """Return where the covers of a shard lie."""
    return shard.parent.parent / "cover" / shard.name


def centres_path(shard: Path) -> Path:
    """Return where the centres of a shard's subjects lie."""
    return shard.parent.parent / "centres" / shard.name


def _mark(work_dir: Path) -> tuple[str, int]:
    """The edition of the scenes in ``work_dir``, and of how many things they are (0 for all)."""
    path = work_dir / "scenes" / "edition"
    edition, _, things = (path.read_text(encoding="utf-8") if path.exists() else "1").partition(" ")
    return edition.strip(), int(things or 0)


def _set_mark(work_dir: Path, things: int) -> None:
    path = work_dir / "scenes" / "edition"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{EDITION} {things}" if things else EDITION, encoding="utf-8")


def shards(work_dir: Path, size_px: int) -> list[Path]:
    """Return the shards that are there, in order."""
    return sorted((work_dir / "scenes").glob(f"{size_px}px-*.npy"))


def seeds_of(path: Path) -> range:
    """Return the seeds of a shard's scenes."""
    shard = int(path.stem.rpartition("-")[2])
    return range(shard * SHARD_SCENES, (shard + 1) * SHARD_SCENES)


def crops(images: npt.NDArray[np.uint8], count: int, size_px: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Cut random squares: float32 (count, 3, size, size), [-1, 1]."""
    height, width = images.shape[1:3]
    chosen = rng.integers(0, len(images), count)
    tops, lefts = rng.integers(0, height - size_px + 1, count), rng.integers(0, width - size_px + 1, count)
    cut = np.stack([images[i, y : y + size_px, x : x + size_px] for i, y, x in zip(chosen, tops, lefts, strict=True)])
    return (cut.transpose(0, 3, 1, 2).astype(np.float32) / 127.5) - 1.0


class CaptionBook:
    """Captions by seed; every epoch words the same scene anew."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner

    def caption(self, seed: int, wording: int) -> str:
        """Return wording number ``wording`` of a scene; nothing is drawn for it."""
        description = self._planner.plan(seed)
        return caption(description, random.Random(f"{seed}/{wording}"))  # noqa: S311
