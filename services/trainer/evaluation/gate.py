"""Conditions on scores: "wer<=0.2"."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from narrative.errors import InvalidParameter

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_FORM = re.compile(r"\s*([a-z][a-z0-9_-]*)\s*(<=|>=|<|>)\s*([-+]?[0-9]*\.?[0-9]+)\s*")


@dataclass(frozen=True)
class Requirement:
    """One condition."""

    score: str
    sign: str
    bound: float

    def is_met(self, scores: Mapping[str, float]) -> bool:
        """Whether the scores meet it; NaN meets nothing."""
        return _OPERATORS[self.sign](scores[self.score], self.bound)

    def __str__(self) -> str:
        return f"{self.score}{self.sign}{self.bound:g}"


def parse(texts: Sequence[str], known: Sequence[str]) -> list[Requirement]:
    """Reads conditions.

    Args:
        known: scores that there will be.

    Raises:
        InvalidParameter: not of the form, or about a score there is not.
    """
    requirements = []
    for text in texts:
        found = _FORM.fullmatch(text)
        if not found:
            raise InvalidParameter(f"{text!r} is no requirement; write for example 'wer<=0.2'", field="require")
        requirement = Requirement(found[1].replace("-", "_"), found[2], float(found[3]))
        if requirement.score not in known:
            raise InvalidParameter(
                f"{requirement.score!r} is not measured here; measured are {', '.join(known)}", field="require"
            )
        requirements.append(requirement)
    return requirements


def unmet(requirements: Sequence[Requirement], scores: Mapping[str, float]) -> list[str]:
    """Those that the scores do not meet, with what was measured."""
    return [
        f"{requirement} (measured {scores[requirement.score]:.4g})"
        for requirement in requirements
        if not requirement.is_met(scores)
    ]
