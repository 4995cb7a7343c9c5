"""Objects the cut-out sets lack or have in one colour only, drawn here as SVG in any colour."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from PIL import Image

from services.trainer.storybook.cutouts import CutoutError, render_svg

COLOURS = {
    "red": "#d8332f",
    "blue": "#2f6fd6",
    "green": "#3d9c4a",
    "yellow": "#f2c12e",
    "white": "#f6f6f2",
    "black": "#25262b",
    "orange": "#ee8426",
    "purple": "#8249b8",
    "brown": "#8a5a34",
    "pink": "#ee88b0",
    "grey": "#8b9199",
}
"""Colour words a caption may use and the paint they stand for."""


def shade(colour: str, factor: float) -> str:
    """Darken (``factor`` < 1) or lighten (> 1) a ``#rrggbb`` colour."""
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{min(255, int(channel * factor)):02x}" for channel in channels)


def _car(c: str) -> str:
    return (
        f'<path d="M8 66 Q8 46 30 44 L58 40 L80 16 Q84 12 90 12 L146 12 Q152 12 156 17 L176 42 Q194 46 194 66 '
        f'L194 76 L8 76 Z" fill="{c}"/><path d="M70 40 L86 20 L112 20 L112 40 Z M120 20 L146 20 L162 40 L120 40 Z" '
        f'fill="#bfe3f5"/><rect x="8" y="64" width="186" height="14" fill="{shade(c, 0.8)}"/>'
        '<circle cx="48" cy="78" r="19" fill="#26282c"/><circle cx="48" cy="78" r="9" fill="#c9cdd2"/>'
        '<circle cx="152" cy="78" r="19" fill="#26282c"/><circle cx="152" cy="78" r="9" fill="#c9cdd2"/>'
        '<rect x="182" y="50" width="12" height="9" fill="#fff2a8"/>'
    )


def _bus(c: str) -> str:
    windows = "".join(f'<rect x="{16 + 36 * i}" y="18" width="30" height="30" fill="#a8d8ee"/>' for i in range(5))
    return (
        f'<rect x="4" y="4" width="192" height="86" rx="12" fill="{c}"/>{windows}'
        f'<rect x="4" y="58" width="192" height="10" fill="{shade(c, 0.72)}"/>'
        '<circle cx="46" cy="90" r="18" fill="#26282c"/><circle cx="46" cy="90" r="8" fill="#c9cdd2"/>'
        '<circle cx="152" cy="90" r="18" fill="#26282c"/><circle cx="152" cy="90" r="8" fill="#c9cdd2"/>'
    )


def _sofa(c: str) -> str:
    dark = shade(c, 0.78)
    return (
        f'<rect x="24" y="8" width="152" height="64" rx="16" fill="{dark}"/>'
        f'<rect x="20" y="52" width="160" height="40" rx="8" fill="{c}"/>'
        f'<path d="M100 56 V90" stroke="{dark}" stroke-width="3"/>'
        f'<rect x="4" y="36" width="28" height="60" rx="13" fill="{shade(c, 0.9)}"/>'
        f'<rect x="168" y="36" width="28" height="60" rx="13" fill="{shade(c, 0.9)}"/>'
        '<rect x="18" y="94" width="12" height="10" fill="#5a3d28"/>'
        '<rect x="170" y="94" width="12" height="10" fill="#5a3d28"/>'
    )


def _table(c: str) -> str:
    dark = shade(c, 0.78)
    return (
        f'<rect x="18" y="16" width="14" height="86" fill="{dark}"/>'
        f'<rect x="168" y="16" width="14" height="86" fill="{dark}"/>'
        f'<rect x="24" y="18" width="152" height="14" fill="{dark}"/>'
        f'<rect x="2" y="4" width="196" height="16" rx="5" fill="{c}"/>'
    )


def _lighthouse(c: str) -> str:
    return (
        '<path d="M10 196 Q50 170 100 176 Q150 170 190 196 Z" fill="#7d7a78"/>'
        '<path d="M78 60 L122 60 L136 180 L64 180 Z" fill="#f7f5ef"/>'
        f'<path d="M75.600 81 L124.400 81 L127.200 105 L72.800 105 Z M69 138 L131 138 L134 162 L66 162 Z" fill="{c}"/>'
        '<rect x="70" y="54" width="60" height="8" fill="#3a3d44"/>'
        '<rect x="82" y="30" width="36" height="24" fill="#ffe27a"/>'
        f'<path d="M76 32 L100 8 L124 32 Z" fill="{c}"/><rect x="94" y="114" width="12" height="16" fill="#5b6c80"/>'
    )


def _umbrella(c: str) -> str:
    return (
        '<path d="M100 20 V176 Q100 194 84 192" fill="none" stroke="#6b4a2f" stroke-width="8" stroke-linecap="round"/>'
        f'<path d="M4 96 Q8 12 100 10 Q192 12 196 96 Q180 80 164 96 Q148 80 132 96 Q116 80 100 96 Q84 80 68 96 '
        f'Q52 80 36 96 Q20 80 4 96 Z" fill="{c}"/><path d="M100 10 Q66 40 68 96 M100 10 Q134 40 132 96" fill="none" '
        f'stroke="{shade(c, 0.72)}" stroke-width="4"/>'
    )


def _house(c: str) -> str:
    return (
        f'<rect x="26" y="84" width="148" height="100" fill="#f3e3c3"/><path d="M6 92 L100 14 L194 92 Z" fill="{c}"/>'
        '<rect x="140" y="24" width="20" height="40" fill="#9c5a44"/>'
        '<rect x="84" y="122" width="34" height="62" fill="#7a4c2c"/>'
        '<rect x="40" y="108" width="32" height="32" fill="#9fd4ee" stroke="#fff" stroke-width="5"/>'
        '<rect x="130" y="108" width="32" height="32" fill="#9fd4ee" stroke="#fff" stroke-width="5"/>'
    )


def _boat(c: str) -> str:
    return (
        f'<path d="M8 140 L192 140 Q176 182 150 184 L50 184 Q24 182 8 140 Z" fill="{c}"/>'
        '<rect x="96" y="14" width="7" height="126" fill="#6b4a2f"/>'
        '<path d="M108 20 Q170 70 176 128 L108 128 Z" fill="#fbfaf2"/>'
        '<path d="M90 36 L90 128 L34 128 Z" fill="#f0ede0"/>'
    )


def _lamp(c: str) -> str:
    return (
        '<rect x="96" y="60" width="8" height="126" fill="#6b5a48"/>'
        '<rect x="70" y="184" width="60" height="10" rx="4" fill="#6b5a48"/>'
        f'<path d="M70 6 L130 6 L152 66 L48 66 Z" fill="{c}"/>'
    )


def _chair(c: str) -> str:
    return (
        f'<path d="M50 10 H66 V190 H50 Z M50 100 H150 V118 H50 Z M134 110 H150 V190 H134 Z" fill="{c}"/>'
        f'<path d="M60 24 H74 V100 H60 Z" fill="{shade(c, 0.8)}"/>'
    )


def _bench(c: str) -> str:
    return (
        f'<rect x="4" y="10" width="192" height="14" fill="{c}"/>'
        f'<rect x="4" y="32" width="192" height="14" fill="{c}"/>'
        f'<rect x="2" y="62" width="196" height="14" fill="{shade(c, 0.85)}"/>'
        '<path d="M20 8 V108 H32 V8 Z M168 8 V108 H180 V8 Z" fill="#3f4248"/>'
    )


def _ball(c: str) -> str:
    return (
        f'<circle cx="100" cy="100" r="92" fill="{c}"/>'
        '<path d="M12 84 Q100 130 188 84 L188 116 Q100 162 12 116 Z" fill="#fff"/>'
    )


def _sleeping_cat(c: str) -> str:
    dark = shade(c, 0.7)
    return (
        f'<ellipse cx="112" cy="72" rx="82" ry="46" fill="{c}"/><path d="M190 88 Q196 118 130 114 Q90 112 70 104" '
        f'fill="none" stroke="{dark}" stroke-width="17" stroke-linecap="round"/>'
        f'<path d="M16 50 L18 16 L42 34 Z M58 34 L84 16 L84 50 Z" fill="{dark}"/>'
        f'<circle cx="50" cy="68" r="38" fill="{c}"/>'
        '<path d="M26 68 Q34 76 42 68 M58 68 Q66 76 74 68" fill="none" stroke="#222" stroke-width="4"/>'
        '<path d="M46 80 L54 80 L50 85 Z" fill="#e88"/>'
    )


DRAWINGS: dict[str, tuple[str, Callable[[str], str]]] = {
    "car": ("0 0 202 98", _car),
    "bus": ("0 0 200 110", _bus),
    "sofa": ("0 0 200 106", _sofa),
    "table": ("0 0 200 104", _table),
    "lighthouse": ("0 0 200 200", _lighthouse),
    "umbrella": ("0 0 200 200", _umbrella),
    "house": ("0 0 200 190", _house),
    "boat": ("0 0 200 190", _boat),
    "lamp": ("0 0 200 200", _lamp),
    "chair": ("0 0 200 194", _chair),
    "bench": ("0 0 200 112", _bench),
    "ball": ("0 0 200 200", _ball),
    "sleeping-cat": ("0 0 204 124", _sleeping_cat),
}


@lru_cache(maxsize=512)
def draw(name: str, colour: str) -> Image.Image:
    """Return a drawn object as RGBA; ``colour`` is a word of ``COLOURS``.

    Raises:
        CutoutError: for an unknown drawing or colour.
    """
    try:
        view_box, make = DRAWINGS[name]
        paint = COLOURS[colour]
    except KeyError as error:
        raise CutoutError(f"no drawing {name!r} in {colour!r}") from error
    return render_svg(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view_box}">{make(paint)}</svg>')
