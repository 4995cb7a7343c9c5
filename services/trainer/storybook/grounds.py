"""The grounds of the places: hills, water, houses, walls, drawn over a sky."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from services.trainer.storybook.light import CANVAS_PX, DULL, INDOOR_LIGHT, LIGHT, Colour, darken, gradient, sky

WINDOW_X = 0.70
"""Middle of the window of a room or kitchen, as a fraction of the width."""


class Painter:
    """Drawing state of one background."""

    def __init__(self, image: Image.Image, rng: random.Random, time: str, weather: str) -> None:
        self.image, self.rng, self.time, self.weather = image, rng, time, weather
        self.size = image.width
        self.draw = ImageDraw.Draw(image)

    def width(self, pixels: float) -> int:
        """Return the width of a line that is ``pixels`` wide on a canvas of ``CANVAS_PX``."""
        return max(1, round(pixels * self.size / CANVAS_PX))

    def lit(self, colour: Colour) -> Colour:
        light, dull = LIGHT[self.time], DULL[self.weather]
        r, g, b = (int(channel * gain * dull) for channel, gain in zip(colour, light, strict=True))
        return r, g, b

    def hills(self, horizon: float, swing: float, colour: Colour) -> None:
        size, rng = self.size, self.rng
        phases = [rng.random() * math.tau for _ in range(3)]
        crest = [
            (
                x,
                size
                * (horizon + swing * sum(math.sin(x / size * (k + 1) * 4 + phases[k]) / (k + 1) for k in range(3))),
            )
            for x in range(0, size + 4, 4)
        ]
        self.draw.polygon([*crest, (size, size), (0, size)], fill=self.lit(colour))

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, *, lit: bool = True) -> None:
        s = self.size
        self.draw.rectangle((x0 * s, y0 * s, x1 * s, y1 * s), fill=self.lit(colour) if lit else colour)

    def fir(self, x: float, foot: float, height: float, colour: Colour) -> None:
        s = self.size
        self.box(x - height * 0.05, foot - height * 0.15, x + height * 0.05, foot, (104, 70, 44))
        for k in range(3):
            top, base, half = (
                foot - height + k * height * 0.2,
                foot - height * (0.55 - k * 0.22),
                height * (0.18 + k * 0.08),
            )
            self.draw.polygon(
                [((x - half) * s, base * s), (x * s, top * s), ((x + half) * s, base * s)], fill=self.lit(colour)
            )

    def bush(self, x: float, foot: float, height: float, colour: Colour) -> None:
        s, r = self.size, height * 0.36
        self.box(x - height * 0.06, foot - height * 0.5, x + height * 0.06, foot, (112, 76, 48))
        for dx, dy in ((-0.26, 0.55), (0.26, 0.55), (0.0, 0.72)):
            cx, cy = x + dx * height, foot - dy * height
            self.draw.ellipse(((cx - r) * s, (cy - r) * s, (cx + r) * s, (cy + r) * s), fill=self.lit(colour))


def forest(p: Painter) -> None:
    p.hills(0.50, 0.03, (44, 96, 62))
    for k in range(9):
        x = (k + p.rng.random()) / 9
        (p.fir if p.rng.random() < 0.65 else p.bush)(
            x, p.rng.uniform(0.64, 0.70), p.rng.uniform(0.34, 0.52), (38, 104, 60)
        )
    p.hills(0.68, 0.015, (84, 140, 66))
    for x in (p.rng.uniform(-0.02, 0.08), p.rng.uniform(0.92, 1.02)):
        p.fir(x, p.rng.uniform(0.74, 0.80), p.rng.uniform(0.55, 0.68), (30, 88, 52))


def meadow(p: Painter) -> None:
    p.hills(0.54, 0.04, (146, 196, 112))
    p.hills(0.64, 0.025, (112, 184, 80))
    for _ in range(14):
        x, y = p.rng.random(), p.rng.uniform(0.70, 0.98)
        r, s = p.rng.uniform(0.008, 0.016), p.size
        petal = p.lit(p.rng.choice([(250, 240, 120), (250, 250, 250), (236, 110, 150)]))
        p.draw.ellipse(((x - r) * s, (y - r) * s, (x + r) * s, (y + r) * s), fill=petal)


def park(p: Painter) -> None:
    p.hills(0.58, 0.015, (98, 170, 84))
    for k in range(4):
        p.bush(0.12 + 0.25 * k + p.rng.uniform(-0.05, 0.05), 0.62, p.rng.uniform(0.26, 0.34), (66, 146, 74))
    p.box(0, 0.62, 1, 1, (104, 182, 84))
    s = p.size
    p.draw.polygon(
        [(0.44 * s, 0.62 * s), (0.56 * s, 0.62 * s), (0.86 * s, s), (0.30 * s, s)], fill=p.lit((222, 202, 160))
    )


def farm(p: Painter) -> None:
    p.hills(0.54, 0.03, (206, 190, 96))
    p.hills(0.64, 0.012, (124, 186, 82))
    x, s = p.rng.uniform(0.04, 0.62), p.size
    p.box(x, 0.44, x + 0.28, 0.66, (178, 52, 44))
    p.draw.polygon(
        [((x - 0.03) * s, 0.45 * s), ((x + 0.14) * s, 0.30 * s), ((x + 0.31) * s, 0.45 * s)], fill=p.lit((112, 40, 36))
    )
    p.box(x + 0.09, 0.53, x + 0.19, 0.66, (244, 238, 226))
    for k in range(11):
        p.box(k * 0.1, 0.66, k * 0.1 + 0.018, 0.74, (232, 224, 206))
    p.box(0, 0.685, 1, 0.70, (232, 224, 206))


def water(p: Painter, top: float, bottom: float, colour: Colour) -> None:
    p.box(0, top, 1, bottom, colour)
    for _ in range(int(40 * (bottom - top))):
        x, y = p.rng.random(), p.rng.uniform(top + 0.02, bottom - 0.01)
        ripple = tuple(min(255, channel + 62) for channel in colour)
        p.box(x, y, x + p.rng.uniform(0.03, 0.1), y + 0.008, (ripple[0], ripple[1], ripple[2]))


def sea(p: Painter) -> None:
    water(p, 0.54, 1.0, (34, 116, 184))


def beach(p: Painter) -> None:
    water(p, 0.50, 0.68, (40, 140, 200))
    p.hills(0.67, 0.012, (240, 214, 152))


def ridge(p: Painter, foot: float) -> None:
    s = p.size
    for k in range(4):
        x, h = (k + p.rng.random()) / 4, p.rng.uniform(0.30, 0.46)
        w = h * 0.85
        p.draw.polygon(
            [((x - w) * s, foot * s), (x * s, (foot - h) * s), ((x + w) * s, foot * s)],
            fill=p.lit((118 - 8 * k, 126 - 7 * k, 146 - 6 * k)),
        )
        cap = [
            ((x - w * 0.28) * s, (foot - h * 0.72) * s),
            (x * s, (foot - h) * s),
            ((x + w * 0.28) * s, (foot - h * 0.72) * s),
        ]
        p.draw.polygon(cap, fill=p.lit((246, 249, 253)))


def mountains(p: Painter) -> None:
    ridge(p, 0.64)
    p.hills(0.64, 0.02, (98, 156, 92))


def lake(p: Painter) -> None:
    ridge(p, 0.54)
    p.box(0, 0.53, 1, 0.58, (92, 148, 92))
    water(p, 0.57, 0.84, (62, 140, 196))
    p.hills(0.83, 0.012, (104, 174, 84))


def desert(p: Painter) -> None:
    p.hills(0.56, 0.045, (238, 200, 126))
    p.hills(0.68, 0.04, (226, 178, 100))


def snow(p: Painter) -> None:
    p.hills(0.56, 0.035, (214, 228, 244))
    for _ in range(4):
        p.fir(p.rng.random(), p.rng.uniform(0.64, 0.68), p.rng.uniform(0.22, 0.36), (52, 110, 84))
    p.hills(0.68, 0.02, (244, 249, 254))


def street(p: Painter) -> None:
    for k in range(5):
        x, height = k * 0.2, p.rng.uniform(0.30, 0.50)
        wall = p.rng.choice([(226, 186, 140), (200, 120, 98), (178, 190, 206), (236, 222, 184), (150, 160, 176)])
        p.box(x, 0.70 - height, x + 0.19, 0.70, wall)
        for row in range(int(height / 0.12)):
            for column in range(2):
                wx, wy = x + 0.03 + column * 0.08, 0.70 - height + 0.04 + row * 0.12
                p.box(
                    wx,
                    wy,
                    wx + 0.045,
                    wy + 0.06,
                    (255, 226, 130) if p.time == "night" else (126, 176, 206),
                    lit=p.time != "night",
                )
    p.box(0, 0.70, 1, 0.76, (186, 184, 178))
    p.box(0, 0.76, 1, 1, (98, 100, 108))
    for k in range(6):
        p.box(k * 0.2, 0.875, k * 0.2 + 0.1, 0.89, (236, 236, 222))


def room(p: Painter) -> None:
    wall = p.rng.choice([(240, 218, 190), (204, 224, 230), (230, 212, 230), (220, 232, 204)])
    walls(p, wall, (178, 126, 82))


def kitchen(p: Painter) -> None:
    walls(p, (244, 240, 226), (206, 196, 180))
    p.box(0, 0.50, 0.42, 0.55, (150, 100, 64))
    p.box(0, 0.55, 0.42, 0.76, (214, 232, 236))
    for k in range(3):
        p.box(0.02 + 0.135 * k, 0.58, 0.13 + 0.135 * k, 0.73, (180, 208, 214))
    p.box(0, 0.14, 0.42, 0.32, (214, 232, 236))


def walls(p: Painter, wall: Colour, floor: Colour) -> None:
    p.box(0, 0, 1, 0.70, wall, lit=False)
    p.box(0, 0.70, 1, 1, floor, lit=False)
    p.box(0, 0.685, 1, 0.705, (246, 242, 232), lit=False)
    s, x = p.size, WINDOW_X
    pane = sky(p.time, "clear", s).resize((int(0.26 * s), int(0.32 * s)))
    p.image.paste(pane, (int((x - 0.13) * s), int(0.12 * s)))
    box = ((x - 0.13) * s, 0.12 * s, (x + 0.13) * s, 0.44 * s)
    p.draw.rectangle(box, outline=(122, 86, 58), width=p.width(6))
    p.draw.line((x * s, 0.12 * s, x * s, 0.44 * s), fill=(122, 86, 58), width=p.width(4))
    p.draw.line(((x - 0.13) * s, 0.28 * s, (x + 0.13) * s, 0.28 * s), fill=(122, 86, 58), width=p.width(4))
    if p.time == "night":
        p.draw.ellipse(((x + 0.03) * s, 0.16 * s, (x + 0.09) * s, 0.22 * s), fill=(255, 244, 196))
    darken(p.image, INDOOR_LIGHT[p.time])


def underwater(p: Painter) -> None:
    p.image.paste(gradient((64, 176, 214), (8, 54, 116), p.size))
    p.hills(0.86, 0.02, (216, 194, 136))
    s = p.size
    for _ in range(4):
        x, h = p.rng.random(), p.rng.uniform(0.12, 0.26)
        box = ((x - 0.03) * s, (0.90 - h) * s, (x + 0.03) * s, 0.92 * s)
        p.draw.arc(box, 90, 270, fill=(36, 130, 84), width=p.width(7))
    for _ in range(9):
        x, y, r = p.rng.random(), p.rng.uniform(0.05, 0.8), p.rng.uniform(0.008, 0.02)
        p.draw.ellipse(((x - r) * s, (y - r) * s, (x + r) * s, (y + r) * s), outline=(200, 236, 248), width=p.width(2))


def space(p: Painter) -> None:
    p.image.paste(gradient((6, 5, 24), (38, 16, 66), p.size))
    stars(p, 90, 1.0)


def stars(p: Painter, count: int, depth: float) -> None:
    s = p.size
    for _ in range(count):
        x, y, r = p.rng.random() * s, p.rng.random() * s * depth, p.rng.uniform(0.5, 1.8) * s / CANVAS_PX
        p.draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 252, 230))


def heavens(p: Painter) -> None:
    s = p.size
    x = p.rng.uniform(0.12, 0.88)
    if p.time == "night":
        if p.weather == "clear":
            stars(p, 45, 0.55)
            p.draw.ellipse(((x - 0.055) * s, 0.09 * s, (x + 0.055) * s, 0.20 * s), fill=(255, 246, 206))
    elif p.weather == "clear":
        y, colour = {
            "day": (0.14, (255, 228, 96)),
            "morning": (0.36, (255, 214, 120)),
            "sunset": (0.42, (255, 108, 62)),
        }[p.time]
        p.draw.ellipse(((x - 0.07) * s, (y - 0.07) * s, (x + 0.07) * s, (y + 0.07) * s), fill=colour)
    if p.weather in ("cloudy", "rain") or (p.time == "day" and p.rng.random() < 0.6):
        white = {"rain": (140, 148, 160), "cloudy": (214, 220, 228)}.get(p.weather, (252, 253, 255))
        for _ in range(5 if p.weather in ("cloudy", "rain") else 2):
            cx, cy, r = p.rng.random(), p.rng.uniform(0.08, 0.24), p.rng.uniform(0.04, 0.07)
            for dx, k in ((-1.2, 0.8), (0.0, 1.15), (1.2, 0.8)):
                box = ((cx + (dx - k) * r) * s, (cy - k * r) * s, (cx + (dx + k) * r) * s, (cy + k * r) * s)
                p.draw.ellipse(box, fill=p.lit(white))
