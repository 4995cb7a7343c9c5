"""The grounds of places that people built: harbour, castle, village, garden, classroom; and the sky at night."""

from __future__ import annotations

from services.trainer.storybook.grounds import Painter, stars, walls, water
from services.trainer.storybook.light import Colour, gradient

_WALLS: tuple[Colour, ...] = ((244, 232, 206), (226, 186, 140), (206, 222, 230), (236, 206, 190))
_ROOFS: tuple[Colour, ...] = ((190, 74, 58), (152, 86, 60), (96, 110, 138))
_WINDOW_BY_NIGHT: Colour = (255, 226, 130)
_WINDOW: Colour = (126, 176, 206)


def _window(p: Painter, x0: float, y0: float, x1: float, y1: float) -> None:
    night = p.time == "night"
    p.box(x0, y0, x1, y1, _WINDOW_BY_NIGHT if night else _WINDOW, lit=not night)


def _polygon(p: Painter, points: list[tuple[float, float]], colour: Colour) -> None:
    p.draw.polygon([(x * p.size, y * p.size) for x, y in points], fill=p.lit(colour))


def _cottage(p: Painter, x: float, foot: float, width: float) -> None:
    height = width * p.rng.uniform(0.7, 0.95)
    top = foot - height
    p.box(x, top, x + width, foot, p.rng.choice(_WALLS))
    roof = p.rng.choice(_ROOFS)
    _polygon(p, [(x - 0.02, top), (x + width / 2, top - width * 0.55), (x + width + 0.02, top)], roof)
    p.box(x + width * 0.40, foot - height * 0.5, x + width * 0.62, foot, (120, 78, 50))
    _window(p, x + width * 0.10, top + height * 0.22, x + width * 0.32, top + height * 0.5)
    _window(p, x + width * 0.70, top + height * 0.22, x + width * 0.92, top + height * 0.5)


def harbour(p: Painter) -> None:
    """Houses on the far shore, a mole with a small light, water, and the edge of a quay."""
    p.hills(0.50, 0.03, (122, 160, 116))
    for k in range(4):
        _cottage(p, 0.05 + 0.14 * k + p.rng.uniform(-0.02, 0.02), 0.54, 0.10)
    p.box(0.66, 0.52, 1.0, 0.56, (150, 146, 140))
    p.box(0.86, 0.40, 0.90, 0.52, (238, 234, 226))
    p.box(0.855, 0.37, 0.905, 0.41, (206, 60, 52))
    water(p, 0.55, 0.86, (44, 120, 170))
    p.box(0, 0.86, 1, 1, (168, 158, 144))
    for k in range(7):
        p.box(k / 6, 0.86, k / 6 + 0.006, 1, (136, 126, 114))
    for x in (0.12, 0.86):
        p.box(x, 0.82, x + 0.03, 0.88, (84, 72, 62))


def castle(p: Painter) -> None:
    """A castle's towers and wall behind a paved court."""
    stone, dark = (176, 172, 178), (148, 144, 152)
    p.box(0.04, 0.36, 0.96, 0.70, stone)
    for k in range(12):
        p.box(0.04 + k * 0.08, 0.33, 0.08 + k * 0.08, 0.37, stone)
    for x in (0.0, 0.80):
        p.box(x, 0.24, x + 0.20, 0.70, dark)
        roof = p.rng.choice(((190, 58, 62), (70, 92, 160), (96, 70, 132)))
        _polygon(p, [(x - 0.02, 0.25), (x + 0.10, 0.05), (x + 0.22, 0.25)], roof)
        _window(p, x + 0.08, 0.32, x + 0.12, 0.40)
        _window(p, x + 0.08, 0.48, x + 0.12, 0.56)
    p.box(0.40, 0.50, 0.60, 0.70, (92, 64, 46))
    p.draw.ellipse((0.40 * p.size, 0.42 * p.size, 0.60 * p.size, 0.58 * p.size), fill=p.lit((92, 64, 46)))
    p.box(0, 0.70, 1, 1, (206, 196, 176))
    for row in range(3):
        y = 0.75 + row * 0.09
        p.box(0, y, 1, y + 0.006, (182, 172, 152))


def village(p: Painter) -> None:
    """Small houses with pitched roofs along a lane."""
    p.hills(0.52, 0.035, (120, 172, 104))
    for k in range(4):
        _cottage(p, 0.02 + 0.25 * k + p.rng.uniform(-0.015, 0.015), 0.68, p.rng.uniform(0.17, 0.21))
    p.box(0, 0.68, 1, 1, (116, 178, 92))
    _polygon(p, [(0, 0.78), (1, 0.74), (1, 0.90), (0, 0.98)], (214, 190, 146))


def garden(p: Painter) -> None:
    """A hedge, a white fence and flower beds on a lawn."""
    for k in range(8):
        p.bush(k / 7, 0.62, p.rng.uniform(0.20, 0.28), (58, 134, 70))
    p.box(0, 0.56, 1, 0.64, (62, 140, 74))
    for k in range(14):
        p.box(k * 0.075, 0.52, k * 0.075 + 0.03, 0.66, (246, 244, 238))
    p.box(0, 0.56, 1, 0.575, (246, 244, 238))
    p.box(0, 0.65, 1, 1, (118, 190, 88))
    for _ in range(34):
        x, y = p.rng.random(), p.rng.choice((p.rng.uniform(0.67, 0.72), p.rng.uniform(0.95, 0.99)))
        r = p.rng.uniform(0.010, 0.018)
        petal = p.lit(p.rng.choice(((240, 92, 120), (250, 220, 90), (176, 110, 214), (250, 250, 250))))
        p.draw.ellipse(((x - r) * p.size, (y - r) * p.size, (x + r) * p.size, (y + r) * p.size), fill=petal)


def classroom(p: Painter) -> None:
    """A room with a green blackboard, on which nothing is written, and a shelf of books."""
    walls(p, (240, 230, 206), (196, 150, 104))
    p.box(0.06, 0.12, 0.50, 0.42, (150, 104, 66), lit=False)
    board: Colour = (40, 74, 60) if p.time == "night" else (52, 104, 82)
    p.box(0.08, 0.14, 0.48, 0.40, board, lit=False)
    p.box(0.20, 0.42, 0.36, 0.435, (232, 228, 216), lit=False)
    p.box(0.88, 0.46, 1.0, 0.70, (150, 104, 66), lit=False)
    for row in range(2):
        for k in range(4):
            colour = p.rng.choice(((190, 70, 60), (60, 110, 170), (220, 180, 80), (80, 140, 90)))
            left, top = 0.89 + k * 0.026, 0.48 + row * 0.11
            p.box(left, top, left + 0.02, top + 0.08, colour, lit=False)


def night_sky(p: Painter) -> None:
    """Nothing but sky: stars, a moon and a few dark clouds at the foot of the picture."""
    p.image.paste(gradient((10, 12, 48), (58, 66, 132), p.size))
    stars(p, 70, 1.0)
    s, x = p.size, p.rng.choice((p.rng.uniform(0.10, 0.24), p.rng.uniform(0.76, 0.90)))
    p.draw.ellipse(((x - 0.08) * s, 0.08 * s, (x + 0.08) * s, 0.24 * s), fill=(255, 246, 206))
    for k in range(6):
        cx, r = k / 5 + p.rng.uniform(-0.05, 0.05), p.rng.uniform(0.08, 0.14)
        p.draw.ellipse(((cx - r * 1.4) * s, (0.97 - r) * s, (cx + r * 1.4) * s, (1.05 + r) * s), fill=(86, 92, 150))
