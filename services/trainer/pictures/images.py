"""Picture files to tensors, with Pillow and NumPy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch

from narrative.errors import DatasetInvalid
from services.trainer.pictures.config import Crop

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


def read_picture(path: Path) -> PIL.Image.Image:
    """Reads a file as RGB, upright as its EXIF says, transparency on white.

    Raises:
        DatasetInvalid: it is no picture.
    """
    with readable(str(path)), PIL.Image.open(path) as opened:
        return as_rgb(opened)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Where a picture is decoded.

    Raises:
        DatasetInvalid: it could not be; says ``name``.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise errors of every kind
        raise DatasetInvalid(f"{name}: not a readable picture") from error


def as_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    """RGB, upright, transparency on white."""
    upright = PIL.ImageOps.exif_transpose(picture)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        white = PIL.Image.new("RGBA", layer.size, "white")
        return PIL.Image.alpha_composite(white, layer).convert("RGB")
    return upright.convert("RGB")


def square(picture: PIL.Image.Image, side: int, crop: Crop, rng: np.random.Generator | None = None) -> PIL.Image.Image:
    """A square of ``side`` pixels: stretched, or the shorter side scaled and the longer one cropped."""
    resample = PIL.Image.Resampling.BILINEAR
    if crop == "stretch":
        return picture.resize((side, side), resample)
    scale = side / min(picture.size)
    width, height = (max(side, round(length * scale)) for length in picture.size)
    scaled = picture.resize((width, height), resample)
    if crop == "random":
        assert rng is not None, "a random crop needs a generator"
        left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    else:
        left, top = (width - side) // 2, (height - side) // 2
    return scaled.crop((left, top, left + side, top + side))


def to_tensor(picture: PIL.Image.Image) -> torch.Tensor:
    """float32 (3, height, width), [-1, 1]."""
    pixels: Any = np.asarray(picture, dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1).div(127.5).sub(1.0).contiguous()
