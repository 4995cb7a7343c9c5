"""From a scene to the prompt of a picture model."""

import re
from collections.abc import Iterable

from services.prompt.engine import Scene
from services.prompt.vocabulary import Vocabulary, words_of

MAX_DETAILS = 4
MAX_DETAIL_WORDS = 5
QUALITY_TAIL = {
    "en": "detailed illustration, realistic light, high quality",
    "ru": "детализированная иллюстрация, реалистичный свет, высокое качество",
}


def clean_details(details: Iterable[str], scene: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    """At most 4 details of 1 to 5 words each, without repetition and without what the scene says already.

    A longer one is cut to 5 words, and loses the articles and prepositions that end it then.
    """
    kept: list[str] = []
    taken = [_key(scene)]
    for detail in details:
        words = tidy_phrase(detail).split()
        if len(words) > MAX_DETAIL_WORDS:
            words = words[:MAX_DETAIL_WORDS]
            while words and words[-1].casefold() in vocabulary.glue:
                words.pop()
        tidy = tidy_phrase(" ".join(words))
        key = _key(tidy)
        if not key or any(f" {key} " in f" {other} " for other in taken):
            continue
        kept.append(tidy)
        taken.append(key)
    return tuple(kept[:MAX_DETAILS])


def build_prompt(scene: Scene, language: str) -> str:
    """Scene, details, style and the quality tail of the language, separated by commas."""
    parts = (scene.scene, *scene.details, scene.style, QUALITY_TAIL[language])
    return ", ".join(tidy for part in parts if (tidy := tidy_phrase(part)))


def tidy_phrase(phrase: str) -> str:
    """One line without control characters, doubled spaces, or punctuation at its ends."""
    printable = "".join(char if char.isprintable() else " " for char in phrase)
    return re.sub(r"\s+", " ", printable).strip(" \t.,;:!?…-–—\"'«»“”*_`")


def _key(phrase: str) -> str:
    return " ".join(word.casefold() for word in words_of(phrase))
