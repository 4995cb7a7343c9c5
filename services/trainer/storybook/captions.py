"""Captions: many wordings of one description, none of which says more than is drawn."""

from __future__ import annotations

import random

from services.trainer.storybook.plan import Description, Relation, Subject
from services.trainer.storybook.styles import STYLES

QUALITY_TAIL = "detailed illustration, realistic light, high quality"
"""The tail the prompt service ends every prompt with; it names nothing, so the model learns to read past it."""

PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "forest": ("in the forest", "in a green forest", "in the woods", "among the trees of a forest"),
    "meadow": ("in a meadow", "on the green grass", "in a field of flowers", "on a green meadow", "in a grassy field"),
    "park": ("in the park", "in a city park", "on the green grass in a park"),
    "farm": ("on a farm", "by a red barn", "in the countryside", "in a farmyard"),
    "sea": ("on the sea", "at sea", "in the ocean", "on the waves"),
    "beach": ("on the beach", "on a sandy beach", "by the sea", "on the shore"),
    "lake": ("by a lake", "at a quiet lake", "on a mountain lake", "snowy mountains and a quiet lake"),
    "mountains": (
        "in the mountains",
        "in front of snowy mountains",
        "high mountains covered with snow",
        "in the hills",
    ),
    "desert": ("in the desert", "in a sandy desert", "among the dunes"),
    "snow": ("in the snow", "in a snowy field", "in a winter landscape", "in winter"),
    "street": ("on the street", "on a city street", "in the city", "in a town street", "on the road"),
    "room": ("in a room", "in a living room", "at home", "in a cozy room", "indoors", "in a room with a window"),
    "kitchen": ("in the kitchen", "in a kitchen", "in a bright kitchen"),
    "underwater": ("under water", "underwater", "at the bottom of the sea", "deep in the sea"),
    "harbour": ("in the harbour", "in a harbour", "at the harbour", "in a small port", "by the quay"),
    "castle": ("at the castle", "in front of a castle", "in a castle courtyard", "by a stone castle"),
    "village": ("in the village", "in a small village", "on a village lane", "among the cottages of a village"),
    "garden": ("in the garden", "in a flower garden", "by a white garden fence", "among the flower beds"),
    "classroom": ("in the classroom", "in a classroom", "at school", "by the blackboard", "in a school room"),
    "nightsky": ("in the night sky", "in the sky at night", "under the moon and stars", "high in the starry sky"),
    "space": ("in space", "in outer space", "among the stars", "in the starry cosmos"),
}
TIME_WORDS: dict[str, tuple[str, ...]] = {
    "day": ("", "", "", "during the day", "in daylight", "on a bright day"),
    "night": ("at night", "in the dark night", "late at night", "night"),
    "sunset": ("at sunset", "in the evening", "at dusk", "under an orange sky"),
    "morning": ("in the morning", "at sunrise", "at dawn", "early morning"),
}
WEATHER_WORDS: dict[str, tuple[str, ...]] = {
    "clear": ("", "", "clear sky"),
    "cloudy": ("cloudy sky", "clouds", "overcast", "under grey clouds"),
    "rain": ("in the rain", "rain", "rainy weather", "heavy rain"),
    "snow": ("snow is falling", "snowfall", "falling snow"),
    "fog": ("in the fog", "fog", "foggy", "mist"),
}
_TIMELESS = ("space", "underwater", "nightsky")
"""Places that have one light only, of which nothing is said."""

NUMBERS = {2: "two", 3: "three"}
_CONVERSES = {
    "in front of": "behind",
    "to the left of": "to the right of",
    "to the right of": "to the left of",
}
_IRREGULAR = {
    "fish": "fish",
    "sheep": "sheep",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "wolf": "wolves",
    "deer": "deer",
    "moose": "moose",
    "bison": "bison",
    "goose": "geese",
    "ox": "oxen",
    "policeman": "policemen",
    "shrimp": "shrimp",
    "squid": "squid",
    "foot": "feet",
    "leaf": "leaves",
    "knife": "knives",
}


def plural(name: str) -> str:
    """Return the plural of a concept's name; the last word is the noun."""
    for joint in (" of ", " with ", " on ", " in "):
        if joint in name:
            head, _, rest = name.partition(joint)
            return plural(head) + joint + rest
    head, _, noun = name.rpartition(" ")
    if noun in _IRREGULAR:
        noun = _IRREGULAR[noun]
    elif noun.endswith(("s", "x", "ch", "sh")):
        noun += "es"
    elif noun.endswith("y") and noun[-2:-1] not in "aeiou":
        noun = noun[:-1] + "ies"
    else:
        noun += "s"
    return f"{head} {noun}".strip()


def _article(phrase: str, rng: random.Random) -> str:
    article = "the" if rng.random() < 0.12 else ("an" if phrase[0] in "aeiou" else "a")
    return phrase if rng.random() < 0.10 else f"{article} {phrase}"


def noun_phrase(subject: Subject, rng: random.Random) -> str:
    """Name a subject: its number, colour, clothes, pose and what it holds, each said only sometimes."""
    concept = subject.concept
    name = concept.name if rng.random() < 0.65 else rng.choice(concept.names)
    person = concept.kind == "person"
    if subject.colour and not person and rng.random() < 0.75 and subject.colour not in name:
        name = f"{subject.colour} {name}"
    if subject.count > 1:
        return f"{NUMBERS[subject.count]} {plural(name)}"
    phrase = _article(name, rng)
    if person and subject.colour and rng.random() < 0.45:
        garment = "dress" if concept.skirt else rng.choice(("jacket", "coat", "shirt"))
        phrase += f" in {_article(f'{subject.colour} {garment}', rng)}"
    if subject.holding is not None and rng.random() < 0.85:
        phrase += rng.choice((" holding ", " with ")) + noun_phrase(subject.holding, rng)
    return phrase


def _relate(first: str, relation: Relation, second: str, subject: Subject, rng: random.Random) -> str:
    if relation.word == "on":
        verb = (
            rng.choice(("", "", "sitting ", "lying "))
            if subject.concept.kind == "animal"
            else (rng.choice(("sitting ", "seated ", "")) if subject.pose else rng.choice(("", "", "lying ")))
        )
        return f"{first} {verb}on {second}"
    if relation.word == "next to":
        return f"{first} {rng.choice(('next to', 'beside', 'near', 'and', 'with'))} {second}"
    if relation.word in _CONVERSES and rng.random() < 0.25:
        return f"{second} {_CONVERSES[relation.word]} {first}"
    return f"{first} {relation.word} {second}"


def sentence(description: Description, rng: random.Random) -> str:
    """Say who is where, without the style."""
    subjects = description.subjects
    phrases = [noun_phrase(subject, rng) for subject in subjects]
    for i, subject in enumerate(subjects):
        seated = any(relation.word == "on" and relation.first == i for relation in description.relations)
        if subject.pose == "sitting" and not seated:
            phrases[i] += rng.choice((" sitting", " is sitting", " sitting on the ground", " sits"))
        elif subject.pose == "standing" and rng.random() < 0.25:
            phrases[i] += rng.choice((" standing", " is standing", " stands"))
    said: set[int] = set()
    parts = []
    for relation in description.relations:
        if relation.first in said or relation.second in said or rng.random() < 0.1:
            continue
        said.add(relation.first)
        if relation.second is None:
            parts.append(
                phrases[relation.first] + rng.choice((" by the window", " near the window", " next to the window"))
            )
        else:
            said.add(relation.second)
            first, second = phrases[relation.first], phrases[relation.second]
            parts.append(_relate(first, relation, second, subjects[relation.first], rng))
    parts += [phrase for i, phrase in enumerate(phrases) if i not in said]
    rng.shuffle(parts)
    who = " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
    where = rng.choice(PLACE_WORDS[description.place]) if not parts or rng.random() < 0.92 else ""
    timed = len(STYLES[description.style].words) and STYLES[description.style].colourful
    moments = TIME_WORDS[description.time] if timed and description.place not in _TIMELESS else ("",)
    when = rng.choice(moments)
    weather = rng.choice(WEATHER_WORDS[description.weather]) if timed and _has_weather(description) else ""
    order = [who, where, when, weather] if rng.random() < 0.8 else [when, who, where, weather]
    return " ".join(word for word in order if word)


def _has_weather(description: Description) -> bool:
    return description.place not in (*_TIMELESS, "room", "kitchen", "classroom")


def _tags(description: Description, rng: random.Random) -> list[str]:
    """Short details of 1-5 words, as the prompt service writes them."""
    tags = [noun_phrase(subject, rng) for subject in description.subjects]
    tags.append(rng.choice(PLACE_WORDS[description.place]).removeprefix("in ").removeprefix("on ").removeprefix("the "))
    if STYLES[description.style].colourful and description.place not in _TIMELESS:
        tags.append(rng.choice(TIME_WORDS[description.time]))
        if _has_weather(description):
            tags.append(rng.choice(WEATHER_WORDS[description.weather]))
    tags = [tag for tag in tags if tag]
    rng.shuffle(tags)
    return tags[:4]


def held_out_caption(description: Description, rng: random.Random) -> str:
    """Return a caption in a wording that no training caption has, to tell reading from remembering."""
    style, said = rng.choice(STYLES[description.style].words), sentence(description, rng)
    frames = ("{style} showing {said}", "{said} drawn as {style}", "we see {said}; {style}", "here is {said} ({style})")
    return rng.choice(frames).format(style=style, said=said)


def caption(description: Description, rng: random.Random) -> str:
    """Return one caption in a random wording and form, lower case, without a full stop."""
    style = rng.choice(STYLES[description.style].words)
    form = rng.random()
    if form < 0.40:  # what the prompt service writes: scene, details, style, quality tail
        details = _tags(description, rng)[: rng.randint(0, 4)]
        quiet = description.style == "storybook" and rng.random() < 0.4
        return ", ".join([sentence(description, rng), *details, *([] if quiet else [style]), QUALITY_TAIL])
    if form < 0.62:
        return f"{sentence(description, rng)}, {style}"
    if form < 0.72:
        return f"{style} of {sentence(description, rng)}"
    if form < 0.84 or description.style != "storybook":
        return ", ".join([*_tags(description, rng), style])
    return sentence(description, rng)
