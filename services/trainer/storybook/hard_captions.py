"""Captions for evaluation: one that says all that can be checked, and twenty that differ in one thing each."""

from __future__ import annotations

import random
from dataclasses import replace

from services.trainer.storybook import captions
from services.trainer.storybook.concepts import Concept
from services.trainer.storybook.drawings import COLOURS
from services.trainer.storybook.places import PLACES
from services.trainer.storybook.plan import Description, Subject
from services.trainer.storybook.styles import STYLES

CANDIDATES = 20
ASPECTS = ("subject", "place", "time", "colour", "style")


def shows_style(description: Description) -> bool:
    """Tell whether the style can be seen: the three unfiltered ones differ in their cut-outs only."""
    filtered = STYLES[description.style].apply is not None
    return filtered or any(not subject.concept.icon.startswith("@") for subject in description.subjects)


def shows_time(description: Description) -> bool:
    """Tell whether the time of day can be seen."""
    return STYLES[description.style].colourful and len(PLACES[description.place].times) > 1


def _changed(description: Description, aspect: str, concepts: dict[str, Concept], rng: random.Random) -> Description:
    """Change one aspect at random; what comes back is unchanged where there is nothing to change."""
    subjects = list(description.subjects)
    if aspect == "place":
        return replace(description, place=rng.choice([name for name in PLACES if name != description.place]))
    if aspect == "time" and shows_time(description):
        times = [time for time in PLACES[description.place].times if time != description.time]
        return replace(description, time=rng.choice(times))
    if aspect == "style" and shows_style(description):
        return replace(description, style=rng.choice([name for name in STYLES if name != description.style]))
    if aspect == "subject" and subjects:
        index = rng.randrange(len(subjects))
        old = subjects[index].concept
        icons = {subject.concept.icon for subject in subjects}
        others = [c for c in concepts.values() if c.kind == old.kind and c.icon not in icons]
        if others:
            subjects[index] = replace(subjects[index], concept=rng.choice(others))
    if aspect == "colour":
        coloured = [i for i, subject in enumerate(subjects) if subject.colour]
        if coloured:
            index = rng.choice(coloured)
            colours = [colour for colour in COLOURS if colour != subjects[index].colour]
            subjects[index] = replace(subjects[index], colour=rng.choice(colours))
    return replace(description, subjects=tuple(subjects))


def alternatives(
    description: Description, concepts: dict[str, Concept], seed: int, count: int = CANDIDATES - 1
) -> list[tuple[str, Description]]:
    """Return ``count`` different wrong descriptions, each with the aspect that is wrong; aspects take turns."""
    rng = random.Random(f"hard/{seed}")  # noqa: S311
    found: dict[Description, str] = {}
    turn = 0
    while len(found) < count:
        aspect = ASPECTS[turn % len(ASPECTS)]
        turn += 1
        candidate = _changed(description, aspect, concepts, rng)
        if candidate != description:
            found.setdefault(candidate, aspect)
    return [(aspect, candidate) for candidate, aspect in found.items()]


def _phrase(subject: Subject) -> str:
    name, concept = subject.concept.name, subject.concept
    if subject.colour and concept.kind != "person" and subject.colour not in name.split():
        name = f"{subject.colour} {name}"
    if subject.count > 1:
        return f"{captions.NUMBERS[subject.count]} {captions.plural(name)}"
    phrase = f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    if subject.colour and concept.kind == "person":
        phrase += f" in a {subject.colour} {'dress' if concept.skirt else 'coat'}"
    if subject.holding is not None:
        phrase += f" holding {_phrase(subject.holding)}"
    return phrase


def complete(description: Description) -> str:
    """Return a caption, in the form of the prompt service, that leaves out nothing a judge will look for."""
    who = " and ".join(map(_phrase, description.subjects))
    place, style = captions.PLACE_WORDS[description.place][0], STYLES[description.style].words[0]
    timed = shows_time(description)
    when = {"day": "during the day"}.get(description.time, captions.TIME_WORDS[description.time][0]) if timed else ""
    weather = "" if description.weather == "clear" else captions.WEATHER_WORDS[description.weather][0]
    said = " ".join(word for word in (who, place, when) if word)
    return ", ".join(part for part in (said, weather, style, captions.QUALITY_TAIL) if part)
