"""Light and weather: skies by the time of day, what they do to colours, and what falls from them."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageStat

CANVAS_PX = 256
"""Side of the square a scene is drawn on before it is made smaller, which also smooths its edges."""

Colour = tuple[int, int, int]

SKIES: dict[str, tuple[Colour, Colour]] = {
    "day": ((84, 166, 240), (206, 233, 250)),
    "morning": ((250, 186, 168), (252, 238, 204)),
    "sunset": ((96, 58, 132), (254, 158, 88)),
    "night": ((8, 12, 44), (42, 52, 108)),
}
TIMES = tuple(SKIES)
WEATHERS = ("clear", "cloudy", "rain", "snow", "fog")

# Light multiplies every painted colour. Night is blue rather than grey, so that snow at night stays snow.
LIGHT: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "morning": (1.0, 0.96, 0.90),
    "sunset": (0.98, 0.78, 0.70),
    "night": (0.38, 0.45, 0.72),
}
DULL = {"clear": 1.0, "cloudy": 0.93, "rain": 0.78, "snow": 0.95, "fog": 0.95}
INDOOR_LIGHT = {
    "day": (1.0, 1.0, 1.0),
    "morning": (1.0, 0.97, 0.92),
    "sunset": (1.0, 0.9, 0.82),
    "night": (0.62, 0.6, 0.74),
}


def gradient(top: tuple[float, ...], bottom: tuple[float, ...], size_px: int, steepness: float = 1.0) -> Image.Image:
    """Return a square that goes from one colour to another, which it reaches at 1 / ``steepness`` of its height."""
    t = np.clip(np.linspace(0, steepness, size_px), 0, 1)[:, None, None]
    column = np.array(top) * (1 - t) + np.array(bottom) * t
    return Image.fromarray(column.astype(np.uint8)).resize((size_px, size_px), Image.Resampling.NEAREST)


def sky(time: str, weather: str, size_px: int = CANVAS_PX) -> Image.Image:
    """Return the sky's gradient, RGB, square."""
    top, bottom = (np.array(colour, dtype=np.float64) for colour in SKIES[time])
    if weather in ("rain", "cloudy", "fog", "snow"):
        grey = 0.3 * top.mean() + 0.7 * bottom.mean()
        share = {"rain": 0.8, "cloudy": 0.45, "fog": 0.7, "snow": 0.6}[weather]
        top, bottom = top * (1 - share) + grey * 0.72 * share, bottom * (1 - share) + grey * share
    return gradient(tuple(top), tuple(bottom), size_px, 1.55)


def darken(image: Image.Image, light: tuple[float, float, float]) -> None:
    """Multiply the colours of an RGB or RGBA image in place."""
    if light != (1.0, 1.0, 1.0):
        paint = Image.new("RGB", image.size, tuple(int(255 * gain) for gain in light))
        dark = ImageChops.multiply(image.convert("RGB"), paint)
        image.paste(
            dark.convert("RGBA") if image.mode == "RGBA" else dark,
            mask=image.getchannel("A") if image.mode == "RGBA" else None,
        )


def fall(image: Image.Image, weather: str, rng: random.Random) -> None:
    """Draw rain, snowflakes or fog over a finished RGB scene, in place."""
    s, draw = image.width, ImageDraw.Draw(image)
    unit = s / CANVAS_PX
    if weather == "rain":
        for _ in range(80):
            x, y = rng.random() * s, rng.random() * s
            draw.line((x, y, x - 5 * unit, y + 15 * unit), fill=(206, 220, 236), width=round(2 * unit))
    elif weather == "snow":
        for _ in range(70):
            x, y, r = rng.random() * s, rng.random() * s, rng.uniform(1.5, 3.2) * unit
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 255, 255))
    elif weather == "fog":
        heights = np.linspace(0, 1, s)[:, None]
        veil = 255 * (0.55 * np.exp(-(((heights - 0.5) / 0.32) ** 2)) + 0.12)
        mist = int(np.clip(np.mean(ImageStat.Stat(image).mean) * 0.6 + 90, 90, 226))
        mask = Image.fromarray(veil.astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
        image.paste((mist, mist, mist), mask=mask)
