"""The tables of the scene gloss: English concepts, and the Russian words that are better told than guessed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.translation.gloss import english

DATA = Path(__file__).parent.parent / "data"
CONCEPT_FILES = {"n": "nouns.tsv", "a": "adjectives.tsv", "v": "verbs.tsv"}
OMITTED = "-"


@dataclass(frozen=True)
class Preposition:
    cases: frozenset[str]
    english: str


@dataclass(frozen=True)
class FixedPhrase:
    part_of_speech: str
    english: str


class Lexicon:
    """All tables, read once.

    Attributes:
        concepts: part of speech ("n", "a", "v") to its English concepts, in file order: rows of the embeddings.
        words: (Russian lemma, part of speech) to English; "-" for a word that is left out on purpose.
        prepositions: words of a preposition to what it means with which case.
        phrases: Russian words to the English that stands for all of them.
        government: (verb lemma, "preposition+case") to the English preposition which that verb asks for.
        governed: last word of every preposition to the cases it governs.
    """

    def __init__(self, folder: Path = DATA) -> None:
        nouns = list(_rows(folder / "nouns.tsv"))
        verbs = list(_rows(folder / "verbs.tsv"))
        self.concepts = {
            "n": [row[0] for row in nouns],
            "a": [row[0] for row in _rows(folder / "adjectives.tsv")],
            "v": [row[0] for row in verbs],
        }
        self._plurals = {row[0]: row[1] for row in nouns if row[1:] and row[1]}
        self._definite = {row[0] for row in nouns if row[2:]}
        self._ing = {row[0]: row[1] for row in verbs if row[1:] and row[1]}
        self._participles = {row[0]: row[2] for row in verbs if row[2:]}
        self.words = {(row[0], row[1]): row[2] for row in _rows(folder / "russian.tsv")}
        self.prepositions: dict[tuple[str, ...], list[Preposition]] = {}
        for phrase, cases, meaning in _rows(folder / "prepositions.tsv"):
            entry = Preposition(frozenset(filter(None, cases.split(","))), meaning)
            self.prepositions.setdefault(tuple(phrase.split()), []).append(entry)
        self.phrases = {tuple(row[0].split()): FixedPhrase(row[1], row[2]) for row in _rows(folder / "phrases.tsv")}
        self.government = {(row[0], row[1]): row[2] if row[2:] else "" for row in _rows(folder / "government.tsv")}
        self.governed: dict[str, frozenset[str]] = {}
        for words, entries in self.prepositions.items():
            cases_of = frozenset().union(*(entry.cases for entry in entries))
            self.governed[words[-1]] = self.governed.get(words[-1], frozenset()) | cases_of

    def countable(self, noun: str) -> bool:
        return self._plurals.get(noun) != OMITTED

    def plural(self, noun: str) -> str:
        known = self._plurals.get(noun)
        if known == OMITTED:
            return noun
        return known or english.plural(noun)

    def article(self, noun: str, phrase: str) -> str:
        """The phrase with the article that its singular head noun asks for."""
        if noun in self._definite:
            return f"the {phrase}"
        return english.with_article(phrase) if self.countable(noun) else phrase

    def ing(self, verb: str) -> str:
        return self._ing.get(verb) or english.ing(verb)

    def participle(self, verb: str) -> str:
        return self._participles.get(verb) or english.participle(verb)


def _rows(path: Path) -> Iterator[list[str]]:
    for line in path.read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            yield line.split("\t")
