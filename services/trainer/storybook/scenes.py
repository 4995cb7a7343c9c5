"""The scene composer: from a seed to a picture and an exact account of what is in it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from services.trainer.storybook import bodies, drawings, light, places
from services.trainer.storybook.concepts import Concept
from services.trainer.storybook.cutouts import CutoutSource
from services.trainer.storybook.grounds import WINDOW_X
from services.trainer.storybook.light import CANVAS_PX
from services.trainer.storybook.places import PLACES
from services.trainer.storybook.plan import Description, Planner, Relation, Subject
from services.trainer.storybook.styles import STYLES, Style

# Difference of brightness from which on a thing counts as seen before its ground, of 255.
_SEEN = 6
TALLEST = 0.8
"""Height above which nothing is drawn, as a fraction of the picture: heads and roofs stay inside."""
OVERLAPPING = ("on", "under", "in front of", "window")
"""Relations in which one thing is drawn over or close to another; the others only put them side by side."""

SIDES = ("to the left of", "to the right of")
SEATS = {"sofa": 0.44, "bench": 0.45, "chair": 0.48, "bed": 0.5}
"""Height of a seat as a fraction of the height of the furniture."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A composed picture, what is in it, and where.

    Attributes:
        image: RGB, square.
        cover: L, of the same size; 255 where things stand.
        centres: (x, y) of each subject of the description, of several alike the leftmost; fractions of the picture.
    """

    image: Image.Image
    description: Description
    cover: Image.Image
    centres: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Item:
    """A cut-out and where it goes; lengths are fractions of the picture.

    Attributes:
        subject: number of the subject that it shows.
        x: of its middle.
        foot: y of its lower edge.
        shadow: whether it throws one on the ground.
    """

    subject: int
    sprite: Image.Image
    x: float
    foot: float
    height: float
    shadow: bool


class Composer:
    """Composes scenes out of cut-outs and concepts; the same seed gives the same scene."""

    def __init__(self, cutouts: CutoutSource, concepts: dict[str, Concept], size_px: int = 128) -> None:
        self._cutouts, self._size_px = cutouts, size_px
        self.planner = Planner(concepts)

    def compose(self, seed: int) -> Scene:
        """Plan and draw the scene of a seed."""
        return self.draw(self.planner.plan(seed), seed)

    def draw(self, description: Description, seed: int) -> Scene:
        """Draw a description.

        Raises:
            PlaceError: for a place, time or weather that cannot be drawn.
            CutoutError: for a cut-out that is in no set.
        """
        rng = random.Random(seed ^ 0x5CE0E)  # noqa: S311
        style = STYLES[description.style]
        # Twice the size that is wanted, so that edges come out smooth; filters are drawn for CANVAS_PX.
        side = max(CANVAS_PX, 2 * self._size_px)
        ground = self._ground(description, rng, side)
        canvas = ground.convert("RGBA")
        centres: dict[int, tuple[float, float]] = {}
        for item in self._layout(description, style, rng):
            centre = _paste(canvas, item)
            centres[item.subject] = min(centre, centres.get(item.subject, centre))
        image = canvas.convert("RGB")
        cover = ImageChops.difference(image, ground).convert("L").point(lambda value: 255 if value > _SEEN else 0)
        light.fall(image, description.weather, rng)
        if style.apply is not None:
            image = image.resize((CANVAS_PX, CANVAS_PX), Image.Resampling.BOX)
            image = style.apply(image, seed & 0xFFFF)
        size = (self._size_px, self._size_px)
        image, cover = (picture.resize(size, Image.Resampling.BOX) for picture in (image, cover))
        return Scene(image, description, cover, tuple(centres[index] for index in range(len(centres))))

    def _ground(self, description: Description, rng: random.Random, side_px: int) -> Image.Image:
        return places.paint(description.place, description.time, description.weather, rng, side_px)

    def _sprite(self, subject: Subject, description: Description, style: Style, rng: random.Random) -> Image.Image:
        concept, cut_set = subject.concept, style.sets[0]
        if concept.icon.startswith("@"):
            sprite = drawings.draw(concept.icon[1:], subject.colour or "grey")
        elif concept.kind == "person":
            head = self._cutouts.render(cut_set, concept.icon)
            sprite = bodies.person(
                head, subject.colour or "grey", rng.randrange(3), sitting=subject.pose == "sitting",
                skirt=concept.skirt, set_name=cut_set,
            )  # fmt: skip
            if subject.holding is not None:
                sprite = _with_held(
                    sprite, self._sprite(subject.holding, description, style, rng), subject.holding.concept
                )
        else:
            sprite = self._cutouts.render(cut_set, concept.icon)
            sprite = bodies.animal(sprite) if concept.kind == "head" else sprite
            sprite = _blacken(sprite) if concept.tint == "black" else sprite
            if concept.kind in ("animal", "head", "figure", "swim", "float") and rng.random() < 0.5:
                sprite = ImageOps.mirror(sprite)
        sprite = sprite.copy()
        light.darken(sprite, places.light_of(PLACES[description.place], description.time))
        return sprite

    def _layout(self, description: Description, style: Style, rng: random.Random) -> list[Item]:
        """Return what is to be pasted, from back to front."""
        subjects, place = description.subjects, PLACES[description.place]
        total = sum(subject.count for subject in subjects)
        scale = {1: 1.4, 2: 1.05}.get(total, 0.85)
        links = {relation.first: relation for relation in description.relations}
        carriers = {r.second for r in description.relations if r.word == "on" or _is_table_above(r, subjects)}
        backs = {r.second for r in description.relations if r.word in ("under", "in front of")} - carriers
        slots = _slots(subjects, links, rng)
        crowd = Counter((relation.word, relation.second) for relation in description.relations)
        boxes: dict[int, tuple[float, float, float]] = {}
        items = []
        for index, subject in sorted(enumerate(subjects), key=lambda pair: pair[0] in links):
            relation, concept = links.get(index), subject.concept
            height = concept.height * scale * rng.uniform(0.92, 1.08) * (0.62 if subject.pose == "sitting" else 1.0)
            height = min(height, TALLEST)
            x, foot = slots[index], max(_foot(concept, place, height, rng), height + 0.02)
            behind = 0
            if index in carriers:
                height, foot, behind = concept.height * 1.3, rng.uniform(0.90, 0.95), 1
            elif index in backs:
                height = min(height * 1.3, TALLEST)
            if relation is not None and relation.word == "window":
                x, behind = WINDOW_X + rng.uniform(-0.06, 0.06), 1
            elif relation is not None and relation.second is not None:
                other_x, other_foot, other_height = boxes[relation.second]
                if relation.word == "on":
                    seat = SEATS.get(subjects[relation.second].concept.name, 0.97)
                    place_beside = crowd[(relation.word, relation.second)]
                    crowd[(relation.word, relation.second)] = -place_beside
                    # Two on one table share it: the first lies to the left, the second to the right.
                    x = other_x + (rng.uniform(-0.12, 0.12) if place_beside == 1 else 0.10 * (-1) ** (place_beside > 0))
                    foot = other_foot - other_height * seat
                    if concept.kind == "person":
                        x, foot = other_x + rng.uniform(-0.04, 0.04), foot + 0.07
                    else:
                        height = min(height, 0.32)
                elif relation.word == "under" and subjects[relation.second].concept.kind == "furniture":
                    x, foot = other_x + rng.uniform(-0.05, 0.05), other_foot + 0.01
                    height = min(height, other_height * 0.72)
                elif relation.word in ("under", "in front of"):
                    x, foot = other_x + rng.uniform(-0.10, 0.10), min(0.97, other_foot + 0.06)
                    height = min(height, other_height * 0.62)
                behind = 2 if relation.word in OVERLAPPING else 0
            boxes[index] = (x, foot, height)
            for k in range(subject.count):
                offset = (k - (subject.count - 1) / 2) * min(0.62 / subject.count, height * 1.15)
                grounded = concept.kind not in ("sky", "swim", "float", "float-space") and behind != 2
                sprite = self._sprite(subject, description, style, rng)
                item = Item(index, sprite, x + offset, foot, height, shadow=grounded)
                items.append((behind if behind == 2 else 0, foot, item))
        return [item for _, _, item in sorted(items, key=lambda entry: (entry[0], entry[1]))]


def _is_table_above(relation: Relation, subjects: tuple[Subject, ...]) -> bool:
    return (
        relation.word == "under"
        and relation.second is not None
        and subjects[relation.second].concept.kind == "furniture"
    )


def _slots(subjects: tuple[Subject, ...], links: dict[int, Relation], rng: random.Random) -> dict[int, float]:
    free = [i for i in range(len(subjects)) if i not in links or links[i].word not in OVERLAPPING]
    middles = {1: (0.5,), 2: (0.29, 0.71), 3: (0.19, 0.5, 0.81)}[max(1, len(free))]
    order = list(range(len(free)))
    rng.shuffle(order)
    for first, relation in links.items():
        if relation.word in SIDES and relation.second is not None:
            left, right = (first, relation.second) if relation.word == SIDES[0] else (relation.second, first)
            lower, upper = sorted((order[free.index(left)], order[free.index(right)]))
            order[free.index(left)], order[free.index(right)] = lower, upper
    slots = {i: middles[order[k]] + rng.uniform(-0.05, 0.05) for k, i in enumerate(free)}
    return {i: slots.get(i, 0.5) for i in range(len(subjects))}


def _foot(concept: Concept, place: places.Place, height: float, rng: random.Random) -> float:
    if concept.kind == "sky":
        return height + rng.uniform(0.03, 0.14)
    if concept.kind == "float-space" or place.name in ("space", "nightsky"):
        return rng.uniform(0.62, 0.80)
    if place.name == "underwater":
        return rng.uniform(0.90, 0.95) if concept.kind in ("animal", "object") else rng.uniform(0.48, 0.78)
    if place.name == "harbour" and concept.kind in ("float", "swim"):
        return rng.uniform(0.68, 0.80)
    if concept.kind in ("float", "swim") or place.name == "sea":
        return rng.uniform(0.70, 0.80)
    if concept.kind in ("building", "plant") and concept.height > 0.4:
        return rng.uniform(0.78, 0.84)
    return rng.uniform(0.88, 0.95)


def _blacken(sprite: Image.Image) -> Image.Image:
    grey = ImageOps.autocontrast(sprite.convert("L")).point(lambda value: 14 + value * value // 1100)
    black = Image.merge("RGBA", (grey, grey, grey, sprite.getchannel("A")))
    eyes = np.asarray(sprite)[..., :3].astype(int)
    # Yellow or white details (eyes) stay as they are; the purple or brown fur does not.
    keep = (eyes[..., 1] > 150) & (eyes[..., 0] > 150)
    black.paste(sprite, mask=Image.fromarray((keep * np.asarray(sprite)[..., 3]).astype(np.uint8)))
    return black


def _with_held(person: Image.Image, thing: Image.Image, concept: Concept) -> Image.Image:
    umbrella = concept.name == "umbrella"
    width, height = person.size
    size = round(height * (0.95 if umbrella else 0.30))
    thing = thing.resize((max(1, round(size * thing.width / thing.height)), size), Image.Resampling.LANCZOS)
    hand_x, hand_y = width * bodies.HAND_XY[0], height * bodies.HAND_XY[1]
    top = hand_y - size * (0.98 if umbrella else 0.6)
    left = hand_x - thing.width / 2
    pad_top, pad_right = max(0, round(-top)), max(0, round(left + thing.width - width))
    pad_left = max(0, round(-left))
    canvas = Image.new("RGBA", (width + pad_left + pad_right, height + pad_top))
    canvas.alpha_composite(person, (pad_left, pad_top))
    canvas.alpha_composite(thing, (round(left) + pad_left, round(top) + pad_top))
    return canvas


def _paste(canvas: Image.Image, item: Item) -> tuple[float, float]:
    """Paste, and return (x, y) of the middle of what was pasted."""
    size, sprite, foot = canvas.width, item.sprite, item.foot
    rows = max(4, round(size * item.height))
    columns = max(4, round(sprite.width * rows / sprite.height))
    if columns > size * 0.94:
        rows, columns = round(rows * size * 0.94 / columns), round(size * 0.94)
    sprite = sprite.resize((columns, rows), Image.Resampling.BILINEAR)
    half = columns / 2 / size
    x = min(max(item.x, half - 0.02), 1.02 - half)
    if item.shadow:
        unit = size / CANVAS_PX
        dark = Image.new("RGBA", (round(columns * 0.9 + 12 * unit), round(22 * unit)))
        edge = 6 * unit
        ImageDraw.Draw(dark).ellipse((edge, edge, dark.width - edge, dark.height - edge), fill=(0, 0, 0, 84))
        dark = dark.filter(ImageFilter.BoxBlur(2 * unit))
        _overlay(canvas, dark, round(x * size - dark.width / 2), round(foot * size - dark.height / 2))
    _overlay(canvas, sprite, round(x * size - columns / 2), round(foot * size - rows))
    return x, foot - rows / 2 / size


def _overlay(canvas: Image.Image, sprite: Image.Image, left: int, top: int) -> None:
    """Composite a sprite that may stick out of the canvas."""
    cut = (max(0, -left), max(0, -top))
    if cut[0] < sprite.width and cut[1] < sprite.height and left < canvas.width and top < canvas.height:
        canvas.alpha_composite(sprite, (max(0, left), max(0, top)), cut)
