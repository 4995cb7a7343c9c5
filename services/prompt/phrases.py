"""Phrases of a speaker's own words that could be a scene: what the LLM may choose from where it must not invent.

A small model told to write a scene copies the examples or makes things up, whatever the instruction. Told to choose,
by a schema that admits nothing but phrases of the text, it cannot: what it answers was said.
"""

import itertools
import re
from collections.abc import Sequence

from services.prompt.visual_prompt import MAX_DETAIL_WORDS
from services.prompt.vocabulary import Vocabulary, words_of

# A schema of more phrases than these costs the server more time than the choice is worth.
MAX_PHRASES = 8
MAX_DETAIL_CHOICES = 40
# Beyond this many words a picture model forgets the beginning; two phrases that are short may stand together.
MAX_PHRASE_WORDS = 22
MAX_PAIR_WORDS = 14

_SENTENCE_END = re.compile(r"(?<=[.!?…;:])\s+|\n+|\s[—–-]\s")


def phrases(lines: Sequence[str], vocabulary: Vocabulary) -> list[str]:
    """The visible part of every sentence, in order; empty where nothing can be seen.

    Talk is left out, and what remains must hold a word that may name something visible. Of more than 8, those with the
    most such words are kept.
    """
    found: list[str] = []
    for line in lines:
        for sentence in _SENTENCE_END.split(line):
            for phrase in _visible(sentence, vocabulary):
                if phrase.casefold() not in (other.casefold() for other in found):
                    found.append(phrase)
    best = sorted(range(len(found)), key=lambda i: (-len(vocabulary.content(found[i])), i))[:MAX_PHRASES]
    return [found[i] for i in sorted(best)]


def scenes(candidates: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Every scene to choose from: one phrase, or two short ones, with the phrases it leaves for details."""
    single = [(phrase, [other for other in candidates if other is not phrase]) for phrase in candidates]
    pairs = [
        (f"{first}, {second}", [other for other in candidates if other not in (first, second)])
        for i, first in enumerate(candidates)
        for second in candidates[i + 1 :]
        if len(first.split()) + len(second.split()) <= MAX_PAIR_WORDS
    ]
    return pairs + single


def details(candidates: Sequence[str], vocabulary: Vocabulary) -> list[str]:
    """Runs of visible words inside phrases, of at most 5 words: "large brown dog"."""
    found: dict[str, None] = {}
    for phrase in candidates:
        run: list[str] = []
        for word in [*phrase.split(), ""]:
            if word and vocabulary.is_visible(word):
                run.append(word)
                continue
            if 0 < len(run) <= MAX_DETAIL_WORDS:
                found.setdefault(" ".join(run))
            elif run:  # A gloss is one long run: its pairs of neighbours are the nearest there is to a noun phrase.
                found.update(dict.fromkeys(" ".join(pair) for pair in itertools.pairwise(run)))
            run = []
    return list(found)[:MAX_DETAIL_CHOICES]


def _visible(sentence: str, vocabulary: Vocabulary) -> list[str]:
    """Cuts a sentence to its visible part; a long one falls into several."""
    kept: list[str] = []
    for position, word in enumerate(words_of(sentence)):
        if word.casefold() not in vocabulary.talk:
            kept.append(word if _keeps_capital(word, position) else word.lower())
            continue
        while kept and kept[-1].casefold() in vocabulary.leading:
            kept.pop()
    pieces = [kept[i : i + MAX_PHRASE_WORDS] for i in range(0, len(kept), MAX_PHRASE_WORDS)]
    trimmed = (_trimmed(piece, vocabulary) for piece in pieces)
    return [" ".join(piece) for piece in trimmed if any(map(vocabulary.is_visible, piece))]


def _keeps_capital(word: str, position: int) -> bool:
    return position > 0 or (word.isupper() and len(word) > 1)


def _trimmed(words: list[str], vocabulary: Vocabulary) -> list[str]:
    start, end = 0, len(words)
    while start < end and words[start].casefold() in vocabulary.edge:
        start += 1
    while end > start and words[end - 1].casefold() in vocabulary.glue:
        end -= 1
    return words[start:end]
