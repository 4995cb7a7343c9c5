"""The curated concepts: what may be drawn, by which cut-out, where, and by what names captions may call it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

CONCEPTS_FILE = Path(__file__).with_name("concepts.yaml")

GROUPS = {
    "outdoors": (
        "meadow", "forest", "park", "street", "mountains", "lake", "beach", "snow", "farm",
        "harbour", "castle", "village", "garden",
    ),
    "table": ("room", "kitchen"),
}  # fmt: skip
GROUPS["everywhere"] = (*GROUPS["outdoors"], "room", "kitchen", "classroom")
"""Names for what many concepts share; ``places`` of an entry may name them."""

HEIGHTS = {"small": 0.32, "medium": 0.45, "large": 0.56, "huge": 0.67, "wide": 0.30, "widelarge": 0.37}
"""Height of a size class as a fraction of the picture, for a subject that stands alone in the middle distance."""

KINDS = frozenset(
    [
        "person",
        "figure",
        "head",
        "animal",
        "vehicle",
        "building",
        "plant",
        "furniture",
        "food",
        "object",
        "sky",
        "swim",
        "float",
        "float-space",
    ]
)


class ConceptError(ValueError):
    """A concept file breaks its own rules."""


@dataclass(frozen=True, slots=True)
class Concept:
    """One thing that can be drawn.

    Attributes:
        icon: cut-out name, or ``@name`` of a drawing that comes in ``colours``.
        height: fraction of the picture's height.
        weight: relative frequency among the concepts of a place.
        perch: may stand on furniture. hold: a person may hold it. skirt: a person drawn in a dress.
        tint: colour word the cut-out is repainted in, because its set draws it in another.
    """

    name: str
    synonyms: tuple[str, ...]
    icon: str
    kind: str
    height: float
    places: tuple[str, ...]
    weight: float
    colours: tuple[str, ...] = ()
    perch: bool = False
    hold: bool = False
    skirt: bool = False
    tint: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every wording a caption may use."""
        return (self.name, *self.synonyms)


def _places(names: list[str]) -> tuple[str, ...]:
    """Replace groups by their places; each is named once."""
    return tuple(dict.fromkeys(place for name in names for place in GROUPS.get(name, (name,))))


def parse(entries: list[dict[str, Any]]) -> dict[str, Concept]:
    """Turn YAML entries into concepts by name; raise ``ConceptError`` on a bad or repeated entry."""
    concepts: dict[str, Concept] = {}
    for entry in entries:
        fields = dict(entry)
        name = str(fields.pop("name", ""))
        try:
            concept = Concept(
                name=name,
                synonyms=tuple(map(str, fields.pop("synonyms", ()))),
                icon=str(fields.pop("icon")),
                kind=str(fields.pop("kind")),
                height=HEIGHTS[fields.pop("size")],
                places=_places(fields.pop("places")),
                weight=float(fields.pop("weight")),
                colours=tuple(fields.pop("colours", ())),
                **fields,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConceptError(f"concept {name!r}: {error}") from error
        if not name or name in concepts or concept.kind not in KINDS or not concept.places:
            raise ConceptError(f"concept {name!r} is nameless, repeated, of no known kind or placed nowhere")
        concepts[name] = concept
    return concepts


def commonest(concepts: dict[str, Concept], count: int) -> dict[str, Concept]:
    """Return the ``count`` concepts of the greatest weight; of equals those that come first."""
    chosen = sorted(concepts.values(), key=lambda concept: -concept.weight)[:count]
    return {concept.name: concept for concept in chosen}


@lru_cache(maxsize=1)
def load() -> dict[str, Concept]:
    """Read ``concepts.yaml``."""
    return parse(yaml.safe_load(CONCEPTS_FILE.read_text(encoding="utf-8")))
