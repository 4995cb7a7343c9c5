"""Bodies for people and animals of whom a cut-out set has only the head."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from services.trainer.storybook.cutouts import render_svg
from services.trainer.storybook.drawings import COLOURS, shade

CANVAS_PX = 256
HAND_XY = (0.84, 0.66)
"""Where a standing person's raised hand is, as a fraction of the body's box."""

_LEGS = ("#2f3d5c", "#5a4636", "#444850")
_SKIN = {"noto": "#fac036"}


def _standing(coat: str, legs: str, skin: str, skirt: bool) -> str:
    dark = shade(coat, 0.8)
    hem = "M84 178 Q128 160 172 178 L206 340 L50 340 Z" if skirt else "M78 178 Q128 158 178 178 L184 322 L72 322 Z"
    return (
        f'<rect x="90" y="310" width="32" height="104" rx="12" fill="{legs}"/>'
        f'<rect x="134" y="310" width="32" height="104" rx="12" fill="{legs}"/>'
        '<ellipse cx="102" cy="418" rx="28" ry="14" fill="#333"/>'
        '<ellipse cx="154" cy="418" rx="28" ry="14" fill="#333"/>'
        f'<path d="M84 194 L46 282" stroke="{dark}" stroke-width="32" stroke-linecap="round"/>'
        f'<circle cx="44" cy="290" r="17" fill="{skin}"/>'
        f'<path d="M172 194 L212 268" stroke="{dark}" stroke-width="32" stroke-linecap="round"/>'
        f'<circle cx="215" cy="274" r="17" fill="{skin}"/>'
        f'<path d="{hem}" fill="{coat}"/>'
    )


def _sitting(coat: str, legs: str, skin: str, skirt: bool) -> str:
    del skirt  # a skirt is not seen on somebody who sits with the legs forward
    dark = shade(coat, 0.8)
    return (
        f'<path d="M104 296 L60 322" stroke="{legs}" stroke-width="38" stroke-linecap="round"/>'
        f'<path d="M152 296 L196 322" stroke="{legs}" stroke-width="38" stroke-linecap="round"/>'
        '<ellipse cx="44" cy="326" rx="24" ry="18" fill="#333"/>'
        '<ellipse cx="212" cy="326" rx="24" ry="18" fill="#333"/>'
        f'<path d="M84 194 L52 272" stroke="{dark}" stroke-width="32" stroke-linecap="round"/>'
        f'<circle cx="50" cy="278" r="17" fill="{skin}"/>'
        f'<path d="M172 194 L204 272" stroke="{dark}" stroke-width="32" stroke-linecap="round"/>'
        f'<circle cx="206" cy="278" r="17" fill="{skin}"/>'
        f'<path d="M78 178 Q128 158 178 178 L184 318 L72 318 Z" fill="{coat}"/>'
    )


def person(head: Image.Image, coat: str, variant: int, *, sitting: bool, skirt: bool, set_name: str) -> Image.Image:
    """Draw a whole person under a head.

    Args:
        head: RGBA head cut-out.
        coat: colour word of ``COLOURS``.
        variant: any whole number; chooses the trousers.
        sitting: legs forward on the ground instead of standing.
        skirt: a dress instead of a jacket.
        set_name: the drawing set the head is from; decides the colour of the hands.
    """
    make = _sitting if sitting else _standing
    base = _render(make, COLOURS[coat], _LEGS[variant % len(_LEGS)], _SKIN.get(set_name, "#ffc83d"), skirt).copy()
    width = 168
    scaled = head.resize((width, round(width * head.height / head.width)), Image.Resampling.LANCZOS)
    base.alpha_composite(scaled, ((CANVAS_PX - width) // 2, max(0, 206 - scaled.height)))
    return base.crop(base.getbbox())


@lru_cache(maxsize=256)
def _render(make: object, coat: str, legs: str, skin: str, skirt: bool) -> Image.Image:
    drawing = (_sitting if make is _sitting else _standing)(coat, legs, skin, skirt)
    # A corner dot of almost no opacity keeps the canvas from being cropped, so that anchors stay where they are.
    frame = '<rect width="256" height="440" fill="#000" fill-opacity="0.004"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 256 440">{frame}{drawing}</svg>'
    image = render_svg(svg, CANVAS_PX)
    alpha = np.asarray(image.getchannel("A"))
    image.putalpha(Image.fromarray(np.where(alpha <= 2, 0, alpha).astype(np.uint8)))
    return image


def animal(head: Image.Image) -> Image.Image:
    """Draw a sitting body in the fur of a head-only animal."""
    pixels = np.asarray(head.resize((32, 32)))
    opaque = pixels[pixels[..., 3] > 200][:, :3]
    fur = "#" + "".join(f"{int(v):02x}" for v in np.median(opaque, axis=0)) if len(opaque) else "#8a5a34"
    base = _animal_body(fur).copy()
    width = 186
    scaled = head.resize((width, round(width * head.height / head.width)), Image.Resampling.LANCZOS)
    base.alpha_composite(scaled, ((CANVAS_PX - width) // 2, max(0, 262 - scaled.height)))
    return base.crop(base.getbbox())


@lru_cache(maxsize=256)
def _animal_body(fur: str) -> Image.Image:
    canvas = Image.new("RGBA", (CANVAS_PX, 440))
    dark = shade(fur, 0.85)
    drawing = (
        f'<path d="M186 384 Q250 376 236 294" stroke="{dark}" stroke-width="30" stroke-linecap="round" fill="none"/>'
        f'<ellipse cx="128" cy="322" rx="78" ry="102" fill="{fur}"/>'
        '<ellipse cx="128" cy="334" rx="44" ry="66" fill="#fff" fill-opacity=".5"/>'
        f'<ellipse cx="88" cy="418" rx="34" ry="18" fill="{dark}"/>'
        f'<ellipse cx="168" cy="418" rx="34" ry="18" fill="{dark}"/>'
        '<rect width="256" height="440" fill="#000" fill-opacity="0.004"/>'
    )
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 256 440">{drawing}</svg>'
    canvas.alpha_composite(render_svg(svg, CANVAS_PX))
    alpha = np.asarray(canvas.getchannel("A"))
    canvas.putalpha(Image.fromarray(np.where(alpha <= 2, 0, alpha).astype(np.uint8)))
    return canvas
