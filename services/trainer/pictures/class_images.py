"""Pictures of a class, drawn by the base itself before it learns anything."""

from pathlib import Path

import torch

from services.trainer.batches import stream_seed
from services.trainer.pictures.base import BaseModel
from services.trainer.pictures.images import SUFFIXES
from services.trainer.progress import Progress


def draw_missing(
    base: BaseModel,
    prompt: str,
    folder: Path,
    num: int,
    *,
    side_px: int,
    batch_size: int,
    seed: int,
    progress: Progress,
) -> None:
    """Draws until the folder has ``num`` pictures; those that are there are counted, whoever made them.

    Each picture has a seed of its own, so that an interrupted run draws the same ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(path.suffix.lower() in SUFFIXES for path in folder.iterdir())
    missing = [index for index in range(num) if not _path(folder, index).exists()][: max(0, num - there)]
    for start in range(0, len(missing), batch_size):
        chosen = missing[start : start + batch_size]
        progress.note(f"drawing class pictures {start + 1} to {start + len(chosen)} of {len(missing)} in {folder}")
        generators = [torch.Generator("cpu").manual_seed(stream_seed(seed, "class", index)) for index in chosen]
        with torch.inference_mode():
            drawn = base.pipeline(
                [prompt] * len(chosen),
                num_inference_steps=base.num_steps,
                guidance_scale=base.guidance_scale,
                width=side_px,
                height=side_px,
                generator=generators,
            )
        for index, image in zip(chosen, drawn.images, strict=True):
            partial = _path(folder, index).with_suffix(".partial")
            image.save(partial, "PNG")
            partial.rename(_path(folder, index))


def _path(folder: Path, index: int) -> Path:
    return folder / f"class-{index:05d}.png"
