"""The places scenes are set in, and what they allow: light, weather, sitting on the grass."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from services.trainer.storybook import grounds, townscapes
from services.trainer.storybook.light import CANVAS_PX, LIGHT, TIMES, sky


class PlaceError(ValueError):
    """A place, time of day or weather nobody has drawn."""


@dataclass(frozen=True, slots=True)
class Place:
    """One kind of place.

    Attributes:
        horizon: height of the horizon from the top, as a fraction of the picture.
        weathers: what may happen there; a room has none.
        paint: draws the ground over a sky.
        grassy: somebody may be said to sit on the grass.
    """

    name: str
    horizon: float
    weathers: tuple[str, ...]
    paint: Callable[[grounds.Painter], None]
    indoors: bool = False
    grassy: bool = False
    times: tuple[str, ...] = TIMES


_OUTSIDE = ("clear", "cloudy", "rain", "fog")

PLACES = {
    place.name: place
    for place in (
        Place("forest", 0.60, (*_OUTSIDE, "snow"), grounds.forest),
        Place("meadow", 0.62, _OUTSIDE, grounds.meadow, grassy=True),
        Place("park", 0.62, _OUTSIDE, grounds.park, grassy=True),
        Place("farm", 0.64, _OUTSIDE, grounds.farm, grassy=True),
        Place("sea", 0.54, _OUTSIDE, grounds.sea),
        Place("beach", 0.60, _OUTSIDE, grounds.beach),
        Place("lake", 0.57, _OUTSIDE, grounds.lake),
        Place("mountains", 0.62, (*_OUTSIDE, "snow"), grounds.mountains, grassy=True),
        Place("desert", 0.62, ("clear", "cloudy"), grounds.desert),
        Place("snow", 0.64, ("clear", "cloudy", "snow", "fog"), grounds.snow),
        Place("street", 0.70, (*_OUTSIDE, "snow"), grounds.street),
        Place("room", 0.70, (), grounds.room, indoors=True),
        Place("kitchen", 0.70, (), grounds.kitchen, indoors=True),
        Place("underwater", 0.80, (), grounds.underwater, times=("day",)),
        Place("harbour", 0.50, _OUTSIDE, townscapes.harbour),
        Place("castle", 0.70, (*_OUTSIDE, "snow"), townscapes.castle),
        Place("village", 0.66, (*_OUTSIDE, "snow"), townscapes.village),
        Place("garden", 0.64, _OUTSIDE, townscapes.garden, grassy=True),
        Place("classroom", 0.70, (), townscapes.classroom, indoors=True),
        Place("nightsky", 0.95, (), townscapes.night_sky, times=("night",)),
        Place("space", 0.90, (), grounds.space, times=("night",)),
    )
}


def light_of(place: Place, time: str) -> tuple[float, float, float]:
    """Return the gain per channel of subjects; they stay lighter than the ground so that they can be seen."""
    if place.indoors or place.name in ("space", "nightsky", "underwater"):
        return (0.85, 0.83, 0.92) if place.indoors and time == "night" else (1.0, 1.0, 1.0)
    r, g, b = ((1.0 + gain) / 2 for gain in LIGHT[time])
    return r, g, b


def paint(place_name: str, time: str, weather: str, rng: random.Random, size_px: int = CANVAS_PX) -> Image.Image:
    """Draw an empty place, RGB, square.

    Raises:
        PlaceError: if the place, time or weather is unknown or cannot be had there.
    """
    place = PLACES.get(place_name)
    if place is None:
        raise PlaceError(f"no place {place_name!r}; known: {', '.join(PLACES)}")
    if time not in place.times or (weather not in place.weathers and (weather != "clear" or place.weathers)):
        raise PlaceError(f"no {weather} {time} in the place {place_name!r}")
    image = sky(time, weather, size_px)
    painter = grounds.Painter(image, rng, time, weather)
    if not place.indoors and place.times == TIMES:
        grounds.heavens(painter)
    place.paint(painter)
    return image
