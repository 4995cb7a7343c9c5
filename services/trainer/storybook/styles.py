"""Drawing styles: which cut-out set a scene is drawn with, and the filter its picture goes through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Filter = Callable[[Image.Image, int], Image.Image]


@dataclass(frozen=True, slots=True)
class Style:
    """One style.

    Attributes:
        words: what captions may call it; none where the style goes unsaid more often than not.
        sets: cut-out sets it is drawn with.
        weight: relative frequency.
        colourful: false when the picture shows no colours, so that captions must not name any.
    """

    name: str
    words: tuple[str, ...]
    sets: tuple[str, ...]
    weight: float
    apply: Filter | None = None
    colourful: bool = True


def _watercolour(image: Image.Image, seed: int) -> Image.Image:
    image = image.filter(ImageFilter.ModeFilter(5)).filter(ImageFilter.SMOOTH_MORE)
    grain = np.random.default_rng(seed).normal(0, 1, (24, 24)).astype(np.float32)
    wash = np.asarray(Image.fromarray(grain).resize(image.size, Image.Resampling.BICUBIC))
    edges = np.asarray(image.convert("L").filter(ImageFilter.FIND_EDGES), dtype=np.float32)
    array = np.asarray(image, dtype=np.float32) * 0.74 + 62 + wash[..., None] * 8 - edges[..., None] * 0.15
    return Image.fromarray(np.clip(array, 0, 255).astype(np.uint8))


def _pencil(image: Image.Image, seed: int) -> Image.Image:
    del seed
    grey = image.convert("L")
    blurred = np.asarray(ImageOps.invert(grey).filter(ImageFilter.GaussianBlur(6)), dtype=np.float32)
    lines = np.asarray(grey, dtype=np.float32) * 255 / (256 - blurred)
    tone = np.asarray(grey, dtype=np.float32) * 0.35 + 166
    return Image.fromarray(np.clip(lines * tone / 255, 0, 255).astype(np.uint8)).convert("RGB")


def _pixels(image: Image.Image, seed: int) -> Image.Image:
    del seed
    small = image.resize((48, 48), Image.Resampling.BOX).quantize(28).convert("RGB")
    return small.resize(image.size, Image.Resampling.NEAREST)


def _oil(image: Image.Image, seed: int) -> Image.Image:
    del seed
    return ImageEnhance.Color(image.filter(ImageFilter.ModeFilter(9))).enhance(1.35)


STYLES = {
    style.name: style
    for style in (
        Style("storybook", ("storybook illustration", "children's book illustration", "cartoon"), ("noto",), 0.52),
        Style("flat", ("flat design", "flat vector illustration", "minimal flat art"), ("fluent-flat",), 0.18),
        Style("soft", ("soft 3d cartoon", "soft gradient cartoon", "glossy 3d render"), ("fluent",), 0.10),
        Style("watercolour", ("watercolor painting", "watercolour", "soft watercolor"), ("noto",), 0.08, _watercolour),
        Style("pencil", ("pencil sketch", "pencil drawing", "black and white sketch"), ("noto",), 0.05, _pencil, False),
        Style("pixel", ("pixel art", "8-bit pixel art"), ("noto",), 0.03, _pixels),
        Style("oil", ("oil painting", "painted in oil"), ("noto",), 0.04, _oil),
    )
}
