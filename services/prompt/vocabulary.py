"""Words: which of them name something visible, and whether one text bears out another."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*|\d+")
# Inflected forms share at least their first three letters and differ in at most their last four.
_MIN_STEM = 3
_MAX_ENDING = 4


def words_of(text: str) -> list[str]:
    """Words and numbers of a text in order, as written, without punctuation."""
    return [word.replace("’", "'") for word in _WORD.findall(text)]


@dataclass(frozen=True)
class Vocabulary:
    """The words of a language that name nothing one could paint.

    Attributes:
        glue: articles, prepositions, numbers and the like: kept inside a phrase, but a phrase of these shows nothing.
        talk: never part of a scene.
        leading: glue that belongs to the word after it: where that word is left out, so is this.
        edge: glue that must not begin a phrase.
    """

    glue: frozenset[str]
    talk: frozenset[str]
    leading: frozenset[str]
    edge: frozenset[str]

    def is_visible(self, word: str) -> bool:
        """Whether a word may name something visible; unknown words count as visible."""
        lowered = word.casefold()
        return lowered not in self.glue and lowered not in self.talk and not lowered.isdigit()

    def content(self, text: str) -> list[str]:
        """The words of a text that may name something visible, in lower case."""
        return [word.casefold() for word in words_of(text) if self.is_visible(word)]

    def grounded_share(self, phrase: str, source: str) -> float:
        """Share of the content words of ``phrase`` that ``source`` holds in some inflected form; 1 without any."""
        wanted = self.content(phrase)
        held = {word.casefold() for word in words_of(source)}
        if not wanted:
            return 1.0
        return sum(any(same_stem(word, other) for other in held) for word in wanted) / len(wanted)


def same_stem(one: str, other: str) -> bool:
    """Whether two words look like forms of one, by their common beginning."""
    if one == other:
        return True
    shared = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        shared += 1
    return shared >= _MIN_STEM and max(len(one), len(other)) - shared <= _MAX_ENDING


def vocabulary(glue: str, talk: str, leading: str, edge: str) -> Vocabulary:
    """Builds a vocabulary from lists of words separated by white space."""
    return Vocabulary(*(frozenset(_lowered(words.split())) for words in (glue, talk, leading, edge)))


def _lowered(words: Iterable[str]) -> Iterable[str]:
    return (word.casefold() for word in words)
