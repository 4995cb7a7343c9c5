"""Several requests translated together, where a server hands them over together."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from narrative.errors import NarrativeError
from services.translation.engine import EngineSet, translate_texts


@dataclass(frozen=True)
class Asked:
    """One request: ``engine`` as in ``EngineSet.get``, the languages as ISO 639-1 codes."""

    texts: tuple[str, ...]
    source: str
    target: str
    engine: str = ""


def translate_together(engines: EngineSet, asked: Sequence[Asked]) -> list[list[str] | NarrativeError]:
    """Translates what goes the same way in one call of the engine.

    Returns:
        For every request its texts, or why it failed; an engine that fails fails all that it was given together.
    """
    answers: list[list[str] | NarrativeError] = [[] for _ in asked]
    ways: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index, one in enumerate(asked):
        if not one.texts:
            continue
        try:
            engine = engines.get(one.engine)
            engine.info.check(one.source, one.target)
        except NarrativeError as error:
            answers[index] = error
        else:
            ways[engine.info.name, one.source, one.target].append(index)
    for (name, source, target), indices in ways.items():
        texts = [text for index in indices for text in asked[index].texts]
        try:
            translated = iter(translate_texts(engines.get(name), texts, source, target))
        except NarrativeError as error:
            for index in indices:
                answers[index] = error
            continue
        for index in indices:
            answers[index] = [next(translated) for _ in asked[index].texts]
    return answers
