"""Tokens of a Russian sentence and the reading each has there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import pymorphy3
from razdel import tokenize

NOMINAL = frozenset({"NOUN", "ADJF", "PRTF", "NPRO", "NUMR"})
_ATTRIBUTE = frozenset({"ADJF", "PRTF"})
_MAX_WORD_LETTERS = 60
_FINITE = frozenset({"VERB", "PRTS", "ADJS"})


@dataclass(frozen=True)
class Word:
    """A token with one reading.

    Attributes:
        text: as it stands.
        lower: lower case, е for ё.
        lemma: dictionary form, е for ё; that of the verb for participles.
        kind: a Russian word, punctuation, or anything else (Latin, digits, emoji), which is kept as it is.
        tags: grammemes of OpenCorpora: part of speech, case, number, gender and the rest.
        cases: every case the form may have with the same lemma and number.
    """

    text: str
    lower: str
    lemma: str
    kind: Literal["word", "punctuation", "foreign"]
    tags: frozenset[str] = frozenset()
    cases: frozenset[str] = frozenset()
    case: str = ""
    pos: str = ""
    score: float = 1.0

    @property
    def plural(self) -> bool:
        return "plur" in self.tags


def yo(text: str) -> str:
    """Lower case with е for ё, the form of every key in the tables."""
    return text.lower().replace("ё", "е")


def analyse(
    sentence: str, prepositions: Mapping[str, frozenset[str]], correct: Callable[[str], str] = str
) -> list[Word]:
    """Tokenises a sentence and picks one reading a token, so that neighbours agree (Viterbi over word pairs).

    Args:
        sentence: Russian text.
        prepositions: preposition to the cases it governs.
        correct: gives a misspelt word back as it should be.
    """
    columns = [_readings(correct(token.text)) for token in tokenize(sentence)]
    if not columns:
        return []
    best: list[list[tuple[float, int]]] = [[(_emission(word) + _first(word), -1) for word in columns[0]]]
    for previous, current in pairwise(columns):
        row = []
        for word in current:
            score, back = max(
                (best[-1][i][0] + _agreement(left, word, prepositions), -i) for i, left in enumerate(previous)
            )
            row.append((score + _emission(word), -back))
        best.append(row)
    index = max(range(len(columns[-1])), key=lambda i: best[-1][i][0])
    chosen = []
    for column, row in zip(reversed(columns), reversed(best), strict=True):
        chosen.append(column[index])
        index = row[index][1]
    return _reorder(chosen[::-1])


def _reorder(words: list[Word]) -> list[Word]:
    """Puts predicates where English has attributes: "небо было голубое" -> "голубое небо", "какого они цвета"."""
    ordered: list[Word] = []
    at = 0
    while at < len(words):
        noun, after = words[at], at + 1
        if after + 1 < len(words) and words[after].lemma == "быть" and words[after + 1].pos == "ADJF":
            after += 1
        following = words[after + 1 : after + 2]
        ends = not following or following[0].pos not in ("NOUN", "ADJF", "NPRO")
        if after < len(words) and ends and _is_predicate(noun, words[after], copula=after > at + 1):
            ordered += [words[after], noun]
            at = after + 1
        elif noun.lemma == "какой" and following and words[at + 1].pos == "NPRO" and following[0].pos == "NOUN":
            ordered += [noun, following[0], words[at + 1]]
            at += 3
        else:
            ordered.append(noun)
            at += 1
    return ordered


def _is_predicate(noun: Word, adjective: Word, *, copula: bool) -> bool:
    agrees = adjective.case == "nomn" or (copula and adjective.case == "ablt")
    both = noun.pos == "NOUN" and adjective.pos == "ADJF" and "Apro" not in adjective.tags
    return both and agrees and "nomn" in noun.cases and adjective.plural == noun.plural


def in_dictionary(word: str) -> bool:
    """Whether the morphological dictionary knows that form."""
    return bool(_analyzer().word_is_known(word))


def lemmas(word: str) -> list[tuple[str, str]]:
    """Dictionary form (е for ё) and part of speech of every reading of a form."""
    return [(yo(parse.normal_form), str(parse.tag.POS or "")) for parse in _analyzer().parse(word)]


@lru_cache(maxsize=1)
def _analyzer() -> Any:
    return pymorphy3.MorphAnalyzer()


@lru_cache(maxsize=20_000)
def _readings(text: str) -> list[Word]:
    if not any("а" <= letter <= "я" or letter == "ё" for letter in text.lower()):
        kind: Literal["punctuation", "foreign"] = "punctuation" if all(not c.isalnum() for c in text) else "foreign"
        return [Word(text, text, text, kind)]
    if len(text) > _MAX_WORD_LETTERS:  # Noise, on which prediction by prefixes would spend seconds.
        return [Word(text, yo(text), yo(text), "word")]
    parses = _analyzer().parse(text)
    words = []
    for parse in parses[:12]:
        tags = frozenset(map(str, parse.tag.grammemes))
        same = [
            str(other.tag.case)
            for other in parses
            if other.normal_form == parse.normal_form and other.tag.number == parse.tag.number and other.tag.case
        ]
        words.append(
            Word(
                text,
                yo(text),
                yo(parse.normal_form),
                "word",
                tags,
                frozenset(same),
                str(parse.tag.case or ""),
                str(parse.tag.POS or ""),
                float(parse.score),
            )
        )
    return words


def _emission(word: Word) -> float:
    score = word.score
    if word.tags & {"Surn", "Patr", "Geox", "Orgn", "Abbr", "Arch"} or ("Name" in word.tags and word.text.islower()):
        score -= 0.5
    if (word.pos == "COMP" and word.lower.endswith("ей")) or "impr" in word.tags:
        score -= 0.4  # "голубей" is seldom "bluer", "пошли" seldom "send".
    if word.pos in ("PREP", "CONJ"):
        score += 0.3
    return score


def _first(word: Word) -> float:
    return 0.5 if word.case == "nomn" else 0.0  # Most sentences begin with their subject.


def _agreement(left: Word, right: Word, prepositions: Mapping[str, frozenset[str]]) -> float:
    if left.kind != "word" or right.kind != "word":
        return 0.0
    if left.pos == "PREP" or (left.pos == "ADVB" and left.lower in prepositions):
        governed = prepositions.get(left.lower, frozenset())
        if right.pos in NOMINAL:
            if governed and right.case not in governed:
                return -1.5
            return 1.8 if right.case in ("loct", "loc2") else 1.5  # A place is likelier than a direction.
        return 0.0
    if left.pos in _ATTRIBUTE and right.pos in _ATTRIBUTE | {"NOUN"}:
        agrees = left.case == right.case and left.plural == right.plural
        genders = {"masc", "femn", "neut"}
        if agrees and not left.plural and left.tags & genders and right.tags & genders:
            agrees = bool(left.tags & right.tags & genders)
        return 1.0 if agrees else -0.5
    if left.lower == "что" and right.pos == "VERB":
        return 2.0 if left.pos == "NPRO" else 0.0
    if left.pos == "NUMR" and right.pos == "NOUN":
        return 0.7 if right.case == "gent" else 0.0
    if left.pos == "NOUN" and right.pos in {"NOUN", "ADJF"}:
        return 0.4 if right.case == "gent" else 0.0
    if left.pos == "NOUN" and right.pos in _FINITE:
        return 0.5 if left.case == "nomn" and left.plural == right.plural else 0.0
    if left.pos in _FINITE and right.pos in NOMINAL and ("intr" in left.tags or left.pos != "VERB"):
        return 0.4 if right.case == "nomn" and left.plural == right.plural else 0.0
    return 0.0
