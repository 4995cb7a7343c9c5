"""From words to chunks: noun phrases, prepositional phrases, verbs and the glue between them, in English."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.translation.gloss.lexicon import OMITTED, FixedPhrase, Lexicon, Preposition
from services.translation.gloss.morphology import Word
from services.translation.gloss.nouns import NounPhrases

CONCEPT_PARTS = {
    "VERB": "v",
    "INFN": "v",
    "PRTF": "v",
    "PRTS": "v",
    "GRND": "v",
    "NOUN": "n",
    "ADJF": "a",
    "ADJS": "a",
}
RELATIVE = "который"
# What people say to one another and nobody sees: its English stands only where it is a whole clause ("Хорошо, ...").
TALK = "talk"
# The same, but elsewhere it is a word like others: "Пока!", "пока кот спит".
REPLY = "reply"


@dataclass(frozen=True)
class Chunk:
    """A piece of a clause, already in English.

    Attributes:
        kind: "noun", "place" (has a preposition), "verb", "participle", "adverb", "conjunction", "relative",
            "punctuation" or "foreign".
        english: empty where the chunk is left out but still shapes its clause.
        word: its Russian head.
        cases: those the whole chunk may have.
        preposition: English preposition of a place.
        source: Russian preposition of a place.
        tail: an English relative clause.
    """

    kind: str
    english: str
    word: Word
    cases: frozenset[str] = frozenset()
    preposition: str = ""
    source: str = ""
    tail: str = ""

    @property
    def text(self) -> str:
        """English with its preposition; empty where the chunk is left out."""
        return f"{self.preposition} {self.english}".strip() if self.english else ""


def concept_key(word: Word) -> tuple[str, str] | None:
    """What to look a word up by: lemma and part of speech; None for words without content."""
    part = CONCEPT_PARTS.get(word.pos)
    return (word.lemma, part) if part and not word.tags & {"Apro", "Anum"} else None


class Chunker:
    """Groups the words of one sentence.

    Args:
        lexicon: the tables.
        concept: English of a (lemma, part of speech), or None where it is not known.
    """

    def __init__(self, lexicon: Lexicon, concept: Callable[[tuple[str, str]], str | None]) -> None:
        self._lexicon = lexicon
        self._concept = concept
        self._nouns = NounPhrases(lexicon, concept)

    def chunks(self, words: Sequence[Word]) -> list[Chunk]:
        found: list[Chunk] = []
        at = 0
        while at < len(words):
            chunk, at = self._next(words, at, found)
            if chunk:
                found.append(chunk)
        return found

    def _next(self, words: Sequence[Word], at: int, before: Sequence[Chunk]) -> tuple[Chunk | None, int]:
        word = words[at]
        if word.kind != "word":
            return Chunk(word.kind, word.text, word), at + 1
        phrase, phrase_end = self._fixed_phrase(words, at)
        if phrase and phrase.part_of_speech in (TALK, REPLY):
            alone = not _begun(before) and all(following.kind == "punctuation" for following in words[phrase_end:][:1])
            if alone or phrase.part_of_speech == TALK:
                english = phrase.english if alone and phrase.english != OMITTED else ""
                return Chunk("adverb", english, words[phrase_end - 1]), phrase_end
            phrase, phrase_end = None, at
        place, place_end = self._place(words, at)
        if place and place_end > phrase_end:
            return place, place_end
        if phrase:
            kind = {"clause": "adverb", "nouns": "noun"}.get(phrase.part_of_speech, phrase.part_of_speech)
            english = phrase.english
            if phrase.part_of_speech == "noun":
                english = self._lexicon.article(english, english)
            head = words[phrase_end - 1]
            return Chunk(kind, english, head, head.cases), phrase_end
        if word.lemma == RELATIVE:
            return Chunk("relative", "", word, word.cases), at + 1
        if word.lower == "не" and at + 1 < len(words) and words[at + 1].pos in ("VERB", "INFN", "GRND", "PRTS", "ADJS"):
            return self._verb(words[at + 1], before, negated=True), at + 2
        noun, end = self._nouns.parse(words, at)
        if noun is not None:
            return Chunk("noun", noun.english, noun.head, noun.cases), end
        if word.pos in ("VERB", "INFN", "GRND", "PRTS", "ADJS"):
            return self._verb(word, before), at + 1
        if word.pos == "PRTF":
            return Chunk("participle", self._nouns.attribute(word), word), at + 1
        english = self._lexicon.words.get((word.lemma, "c")) or self._lexicon.words.get((word.lemma, "d")) or ""
        kind = (
            "conjunction"
            if word.pos in ("CONJ", "PRCL", "PREP") or (word.lemma, "c") in self._lexicon.words
            else "adverb"
        )
        # "Да он спит": where nothing stands before it, it is not "and".
        omitted = english == OMITTED or (word.lower == "да" and not _begun(before))
        return Chunk(kind, "" if omitted else english, word), at + 1

    def _fixed_phrase(self, words: Sequence[Word], at: int) -> tuple[FixedPhrase | None, int]:
        for length in range(min(4, len(words) - at), 0, -1):
            phrase = self._lexicon.phrases.get(tuple(word.lower for word in words[at : at + length]))
            # "дома" is "at home" or "houses": alone, a noun counts only in the case of adverbs ("ночью"), or as a name.
            if phrase and (
                length > 1
                or phrase.part_of_speech in (TALK, REPLY)
                or words[at].pos != "NOUN"
                or words[at].case == "ablt"
                or "-" in words[at].lower
            ):
                return phrase, at + length
        return None, at

    def _place(self, words: Sequence[Word], at: int) -> tuple[Chunk | None, int]:
        for length in range(min(3, len(words) - at - 1), 0, -1):
            entries = self._lexicon.prepositions.get(tuple(word.lower for word in words[at : at + length]))
            if not entries:
                continue
            start = at + length
            if words[start].lemma == RELATIVE:
                which = words[start]
                return Chunk("relative", "", which, preposition=_meaning(entries, which, which.cases)), start + 1
            noun, end = self._nouns.parse_list(words, start)
            if noun is None:
                continue
            fits = any(not entry.cases or entry.cases & noun.cases for entry in entries)
            # "вокруг", "впереди" are adverbs where no noun in their case follows.
            if not fits and words[at].pos != "PREP":
                continue
            meaning, source = _meaning(entries, noun.head, noun.cases), words[start - 1].lower
            return Chunk("place", noun.english, noun.head, noun.cases, meaning, source), end
        return None, at

    def _verb(self, word: Word, before: Sequence[Chunk], *, negated: bool = False) -> Chunk:
        part = "a" if word.pos == "ADJS" and (word.lemma, "v") not in self._lexicon.words else "v"
        base = self._lexicon.words.get((word.lemma, part)) or self._concept((word.lemma, part)) or OMITTED
        if base == OMITTED:
            english = ""
        elif part == "a":
            english = base
        elif word.pos == "PRTS":
            english = self._lexicon.participle(base)
        elif "impr" in word.tags:
            english = base
        elif word.pos == "INFN" and before and before[-1].kind == "verb" and before[-1].english:
            english = f"to {base}"
        else:
            english = self._lexicon.ing(base)
        if negated:
            english = f"not {english}".strip()
        return Chunk("verb", english, word)


def _begun(chunks: Sequence[Chunk]) -> bool:
    """Whether the clause after the last punctuation says anything yet."""
    said = itertools.takewhile(lambda chunk: chunk.kind != "punctuation", reversed(chunks))
    return any(chunk.text for chunk in said)


def _meaning(entries: Sequence[Preposition], noun: Word, cases: frozenset[str]) -> str:
    for possible in ({noun.case}, cases):
        for entry in entries:
            if not entry.cases or entry.cases & possible:
                return entry.english
    return entries[0].english
