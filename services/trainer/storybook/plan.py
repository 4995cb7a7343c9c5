"""What a scene is to show, chosen by seed: place, light, subjects and how they stand to one another.

A description is an exact account: the drawing shows all of it, and captions are written from nothing else.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace
from typing import TypeVar

from services.trainer.storybook import light, places
from services.trainer.storybook.concepts import Concept
from services.trainer.storybook.places import PLACES
from services.trainer.storybook.styles import STYLES

_T = TypeVar("_T")

PLACE_WEIGHTS = {
    "room": 2.6, "street": 2.0, "forest": 1.5, "meadow": 1.5, "park": 1.2, "sea": 1.4, "lake": 1.2, "mountains": 1.2,
    "snow": 1.0, "beach": 0.8, "kitchen": 0.7, "desert": 0.5, "farm": 0.7, "space": 0.7, "underwater": 0.7,
    "harbour": 0.9, "castle": 0.8, "village": 0.9, "garden": 0.8, "classroom": 0.7, "nightsky": 0.6,
}  # fmt: skip
TIME_WEIGHTS = {"day": 0.56, "night": 0.18, "sunset": 0.15, "morning": 0.11}
WEATHER_WEIGHTS = {"clear": 0.64, "cloudy": 0.10, "rain": 0.12, "snow": 0.08, "fog": 0.06}
COUNT_WEIGHTS = {0: 0.06, 1: 0.60, 2: 0.27, 3: 0.07}
MAX_SUBJECTS = 4
"""Most that a scene shows: three, and a table for one of them."""
GROUNDED = ("person", "figure", "animal", "head")
SEATS = ("sofa", "bench", "chair", "bed")
COATS = ("red", "blue", "green", "yellow", "white", "black", "orange", "purple", "pink", "brown", "grey")
JUDGE_SEEDS = range(500_000_000, 600_000_000)
"""Scenes of these seeds are the judge's: any thing of a place may be in it, as nothing is to be new to a judge."""
HELD_OUT_SEED = 1_000_000_000
"""Scenes of this seed and above are never trained on; each shows a subject in a place where training never had it."""

_HELD_OUT_SHARE = 12
_WIDESPREAD = 4


def is_held_out(concept: Concept, place: str) -> bool:
    """Tell whether a thing is kept out of a place in training; only things that have several other places are."""
    digest = hashlib.sha256(f"{concept.name}/{place}".encode()).digest()
    return len(concept.places) >= _WIDESPREAD and digest[0] % _HELD_OUT_SHARE == 0


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing, or several of a kind, that is in the picture.

    Attributes:
        colour: colour word of the thing, or of a person's clothes; None where the cut-out's own colours are kept.
        count: how many were pasted.
        pose: ``standing`` or ``sitting`` for people, else None.
        holding: the small thing in a person's hand, None if the hand is empty.
    """

    concept: Concept
    colour: str | None = None
    count: int = 1
    pose: str | None = None
    holding: Subject | None = None


@dataclass(frozen=True, slots=True)
class Relation:
    """``subjects[first]`` stands to ``subjects[second]`` as ``word`` says; ``window`` has no second subject."""

    first: int
    word: str
    second: int | None = None


@dataclass(frozen=True, slots=True)
class Description:
    """Everything a caption may say about a picture."""

    place: str
    time: str
    weather: str
    style: str
    subjects: tuple[Subject, ...] = ()
    relations: tuple[Relation, ...] = ()


def _pick(rng: random.Random, weights: dict[_T, float]) -> _T:
    return rng.choices(list(weights), list(weights.values()))[0]


class Planner:
    """Plans scenes out of concepts; the same seed gives the same plan."""

    def __init__(self, concepts: dict[str, Concept]) -> None:
        self._concepts = concepts
        self._all: dict[str, dict[str, float]] = {}
        self._by_place: dict[str, dict[str, float]] = {}
        self._held_out: dict[str, dict[str, float]] = {}
        for place in PLACES:
            here = [concept for concept in concepts.values() if place in concept.places]
            self._all[place] = {c.name: c.weight for c in here}
            self._by_place[place] = {c.name: c.weight for c in here if not is_held_out(c, place)}
            self._held_out[place] = {c.name: c.weight for c in here if is_held_out(c, place)}

    def plan(self, seed: int) -> Description:
        """Choose what is to be drawn: only what ``Composer.draw`` can really show."""
        rng = random.Random(seed)  # noqa: S311
        held_out = seed >= HELD_OUT_SEED
        style = STYLES[_pick(rng, {s.name: s.weight for s in STYLES.values()})]
        # Without colours night, deep water and space cannot be told, so a colourless style is not drawn there.
        weights = {n: w for n, w in PLACE_WEIGHTS.items() if style.colourful or PLACES[n].times == light.TIMES}
        if held_out:
            weights = {n: w for n, w in weights.items() if self._held_out[n]}
        place = PLACES[_pick(rng, weights)]
        time = _pick(rng, {t: TIME_WEIGHTS[t] for t in place.times}) if style.colourful else place.times[0]
        weathers = {w: WEATHER_WEIGHTS[w] for w in place.weathers} if style.colourful else {}
        weather = _pick(rng, weathers) if weathers else "clear"
        wanted = max(1, _pick(rng, COUNT_WEIGHTS)) if held_out else _pick(rng, COUNT_WEIGHTS)
        chosen: list[Subject] = []
        relations: list[Relation] = []
        names = dict((self._all if seed in JUDGE_SEEDS else self._by_place)[place.name])
        while names and len(chosen) < wanted:
            first = held_out and not chosen
            concept = self._concepts[_pick(rng, self._held_out[place.name] if first else names)]
            names.pop(concept.name, None)
            chosen.append(self._subject(concept, place.name, rng, alone=wanted == 1))
        chosen = _arrange(chosen, relations, place, self._concepts, rng)
        if not style.colourful:
            chosen = [_colourless(subject) for subject in chosen]
        return Description(place.name, time, weather, style.name, tuple(chosen), tuple(relations))

    def _subject(self, concept: Concept, place: str, rng: random.Random, *, alone: bool) -> Subject:
        colour = rng.choice(concept.colours) if concept.colours else None
        if concept.kind != "person":
            countable = alone and concept.kind not in ("building", "furniture", "figure")
            return Subject(concept, colour, rng.choice((2, 3)) if countable and rng.random() < 0.16 else 1)
        pose = "sitting" if PLACES[place].grassy and rng.random() < 0.22 else "standing"
        holding = None
        if pose == "standing" and rng.random() < 0.20:
            held = {c.name: c.weight for c in self._concepts.values() if c.hold}
            held |= {name: 16.0 for name in held if name == "umbrella"}
            if held:
                thing = self._concepts[_pick(rng, held)]
                holding = Subject(thing, rng.choice(thing.colours) if thing.colours else None)
        return Subject(concept, rng.choice(COATS), 1, pose, holding)


def _arrange(
    subjects: list[Subject],
    relations: list[Relation],
    place: places.Place,
    concepts: dict[str, Concept],
    rng: random.Random,
) -> list[Subject]:
    """Give subjects relations that the layout draws; add the table that a small thing indoors needs."""
    if place.indoors:
        subjects = _furnish(subjects, relations, place, concepts, rng)
        if relations:
            return subjects
    seated = _seat(subjects, relations, rng)
    if seated is not None:
        return seated
    if place.indoors:
        free = [i for i, s in enumerate(subjects) if s.concept.kind in GROUNDED and s.count == 1]
        if free and place.name != "classroom" and rng.random() < 0.4:
            relations.append(Relation(free[0], "window"))
            return subjects
    ground = [i for i, s in enumerate(subjects) if s.concept.kind in GROUNDED]
    back = [i for i, s in enumerate(subjects) if s.concept.kind in ("building", "plant") and s.concept.height >= 0.5]
    if ground and back and rng.random() < 0.5:
        leafy = "tree" in subjects[back[0]].concept.name
        relations.append(Relation(ground[0], "under" if leafy else "in front of", back[0]))
        return subjects
    standing = [i for i, s in enumerate(subjects) if s.concept.kind in (*GROUNDED, "vehicle", "building")]
    if len(subjects) == 2 and len(standing) == 2:
        words = ("next to", "next to", "to the left of", "to the right of")
        relations.append(Relation(standing[0], rng.choice(words), standing[1]))
    return subjects


def _furnish(
    subjects: list[Subject],
    relations: list[Relation],
    place: places.Place,
    concepts: dict[str, Concept],
    rng: random.Random,
) -> list[Subject]:
    """Put small things on furniture, bringing a table where there is none, or small animals under it."""
    bearers = [i for i, s in enumerate(subjects) if s.concept.name in ("table", "sofa")]
    # What is met in the street too (a cat, an umbrella) may as well be on the floor.
    needy = [i for i, s in enumerate(subjects) if s.concept.perch and "street" not in s.concept.places]
    if needy and not bearers and "table" in concepts and place.name in concepts["table"].places:
        table = concepts["table"]
        subjects = [*subjects[:2], Subject(table, rng.choice(table.colours))]
        bearers = [len(subjects) - 1]
        needy = [i for i in needy if i < len(subjects) - 1]
    for i, subject in enumerate(subjects):
        if not bearers or i in bearers or not subject.concept.perch:
            continue
        if i in needy and subject.concept.kind in ("food", "object", "plant"):
            relations.append(Relation(i, "on", bearers[0]))
        elif rng.random() < 0.75:
            below = subjects[bearers[0]].concept.name == "table" and rng.random() < 0.4
            relations.append(Relation(i, "under" if below else "on", bearers[0]))
    return subjects


def _seat(subjects: list[Subject], relations: list[Relation], rng: random.Random) -> list[Subject] | None:
    """Let a person sit on a seat that is there, now and then; None if nobody does."""
    people = [i for i, s in enumerate(subjects) if s.concept.kind == "person" and s.holding is None]
    seats = [i for i, s in enumerate(subjects) if s.concept.name in SEATS]
    if not people or not seats or rng.random() < 0.3:
        return None
    relations.append(Relation(people[0], "on", seats[0]))
    return [replace(s, pose="sitting") if i == people[0] else s for i, s in enumerate(subjects)]


def _colourless(subject: Subject) -> Subject:
    """Keep the paint out of the account of a picture that has no colours; the drawing itself may be any grey."""
    holding = _colourless(subject.holding) if subject.holding else None
    return replace(subject, colour=None, holding=holding)
