"""Noun phrases: determiner, numeral, adjectives, noun, and the genitives that hang on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.translation.gloss.lexicon import OMITTED, Lexicon
from services.translation.gloss.morphology import Word

_POSSESSIVES = frozenset({"его", "ее", "их"})
_OBLIQUE = {"I": "me", "we": "us", "he": "him", "she": "her", "they": "them", "who": "whom"}
_TRANSLITERATION = dict(zip("абвгдезийклмнопрстуфыэ", "abvgdeziyklmnoprstufye", strict=True))
_TRANSLITERATION |= {"ё": "yo", "ж": "zh", "х": "kh", "ц": "ts", "ч": "ch", "ш": "sh", "щ": "shch", "ъ": "", "ь": ""}
_TRANSLITERATION |= {"ю": "yu", "я": "ya"}


@dataclass(frozen=True)
class NounPhrase:
    """A noun with all that depends on it.

    Attributes:
        english: empty where the noun is not known.
        head: the Russian noun.
        case: of the whole; after a numeral, the case of the numeral.
        cases: those the whole may have.
    """

    english: str
    head: Word
    case: str
    cases: frozenset[str]


@dataclass
class _Parts:
    determiners: list[str]
    attributes: list[str]
    counted: bool = False
    case: str = ""
    cases: frozenset[str] = frozenset()
    last: Word | None = None


class NounPhrases:
    """Reads noun phrases off a list of words.

    Args:
        lexicon: the tables.
        concept: English of a (lemma, part of speech), or None where it is not known.
    """

    def __init__(self, lexicon: Lexicon, concept: Callable[[tuple[str, str]], str | None]) -> None:
        self._lexicon = lexicon
        self._concept = concept

    def parse_list(self, words: Sequence[Word], at: int) -> tuple[NounPhrase | None, int]:
        """A noun phrase and those in the same case joined to it by "и" or "или"."""
        first, end = self.parse(words, at)
        while first and end + 1 < len(words) and words[end].lower in ("и", "или"):
            second, after = self.parse(words, end + 1)
            verb_follows = after < len(words) and words[after].pos == "VERB"
            if second is None or not first.cases & second.cases or verb_follows:
                break
            joint = f" {self._lexicon.words[words[end].lower, 'c']} "
            english = joint.join(filter(None, (first.english, second.english)))
            first, end = NounPhrase(english, first.head, first.case, first.cases & second.cases), after
        return first, end

    def parse(self, words: Sequence[Word], at: int) -> tuple[NounPhrase | None, int]:
        """The noun phrase that starts at a word, and where it ends; None where none does."""
        parts = _Parts([], [])
        end = at
        while end < len(words):
            word = words[end]
            if word.pos == "NOUN":
                return self._with_genitives(words, end, parts)
            if not self._take(words, end, parts):
                break
            end += 1
        if end > at and parts.last is not None:
            return self._without_noun(parts), end
        if end == at and words[at].pos == "NPRO":
            word = words[at]
            english = self._lexicon.words.get((word.lemma, "p"), "")
            if word.case not in ("nomn", ""):
                english = _OBLIQUE.get(english, english)
            return NounPhrase("" if english == OMITTED else english, word, word.case, word.cases), at + 1
        return None, at

    def attribute(self, word: Word) -> str:
        """English of an adjective or participle; empty where it is not known."""
        if word.pos == "PRTF":
            if known := self._lexicon.words.get((word.lemma, "v")) or self._concept((word.lemma, "v")):
                if known == OMITTED:
                    return ""
                return self._lexicon.participle(known) if "pssv" in word.tags else self._lexicon.ing(known)
            return ""
        known = self._lexicon.words.get((word.lemma, "a")) or self._concept((word.lemma, "a")) or ""
        return "" if known == OMITTED else known

    def _take(self, words: Sequence[Word], at: int, parts: _Parts) -> bool:
        """Adds a word that may stand before a noun; False where it may not."""
        word, table = words[at], self._lexicon.words
        following = words[at + 1] if at + 1 < len(words) else None
        if word.lower in _POSSESSIVES and following and following.pos in ("NOUN", "ADJF", "PRTF"):
            parts.determiners.append(table[word.lower, "t"])
        elif word.lower == "нет" and following is not None and "gent" in following.cases:
            parts.determiners.append(table["нет", "c"])
            parts.last = word
        elif (word.lemma, "q") in table and (following is not None):
            parts.determiners.append(table[word.lemma, "q"])
            parts.last = word
            if word.lemma != "один":
                parts.counted, parts.case = True, word.case or "nomn"
                parts.cases = word.cases or frozenset({"nomn", "accs"})
        elif word.pos == "ADJF" and (word.lemma, "o") in table:
            parts.determiners.extend(([] if parts.determiners else ["the"]) + [table[word.lemma, "o"]])
            parts.last = word
        elif word.pos == "ADJF" and (word.lemma, "t") in table:
            if table[word.lemma, "t"] != OMITTED:
                parts.determiners.append(_number(table[word.lemma, "t"], word))
                parts.last = word
        elif (word.pos == "ADJF" and "Apro" not in word.tags) or (word.pos == "PRTF" and _precedes_noun(words, at)):
            parts.attributes.append(self.attribute(word))
            parts.last = word
        elif word.lower in (",", "и") and _joins_attributes(words, at):
            pass
        elif (word.lemma, "d") in table and following and following.pos == "ADJF":
            if table[word.lemma, "d"] != OMITTED:
                parts.attributes.append(table[word.lemma, "d"])
        else:
            return False
        return True

    def _with_genitives(self, words: Sequence[Word], at: int, parts: _Parts) -> tuple[NounPhrase, int]:
        head, end = words[at], at + 1
        english = self._noun_phrase(head, parts)
        if end < len(words) and words[end].pos in ("NOUN", "ADJF") and words[end].case == "gent":
            owner, after = self.parse(words, end)
            if owner and owner.case == "gent" and words[after - 1].pos == "NOUN":
                english, end = " of ".join(filter(None, (english, owner.english))), after
        return NounPhrase(english, head, parts.case or head.case, parts.cases or head.cases), end

    def _noun_phrase(self, head: Word, parts: _Parts) -> str:
        noun = self._noun(head)
        if not noun:
            return ""
        singular = not (head.plural and "Pltm" not in head.tags) and not parts.counted
        word = noun if singular else self._lexicon.plural(noun)
        phrase = " ".join(filter(None, (*parts.attributes, word)))
        if parts.determiners:
            return " ".join((*parts.determiners, phrase))
        return self._lexicon.article(noun, phrase) if singular and not _is_name(head) else phrase

    def _noun(self, head: Word) -> str:
        if known := self._lexicon.words.get((head.lemma, "n")):
            return "" if known == OMITTED else known
        known = self._concept((head.lemma, "n"))
        if known and "Name" not in head.tags:
            return known
        return transliterate(head.lemma).capitalize() if _is_name(head) else ""

    def _without_noun(self, parts: _Parts) -> NounPhrase:
        assert parts.last is not None
        words = [*parts.determiners, *filter(None, parts.attributes)]
        ordinal = (parts.last.lemma, "o") in self._lexicon.words
        english = " ".join([*words, "one"] if ordinal else words)
        return NounPhrase(english, parts.last, parts.last.case, parts.last.cases)


def transliterate(word: str) -> str:
    """A Russian name in Latin letters, after BGN/PCGN without its apostrophes."""
    return "".join(_TRANSLITERATION.get(letter, letter) for letter in word.lower())


def _is_name(word: Word) -> bool:
    return bool(word.tags & {"Name", "Surn", "Patr", "Geox"}) and word.text[:1].isupper()


def _number(determiner: str, word: Word) -> str:
    return {"this": "these", "that": "those"}.get(determiner, determiner) if word.plural else determiner


def _precedes_noun(words: Sequence[Word], at: int) -> bool:
    for word in words[at + 1 : at + 4]:
        if word.pos == "NOUN":
            return word.case == words[at].case and word.plural == words[at].plural
        if word.pos not in ("ADJF", "PRTF"):
            return False
    return False


def _joins_attributes(words: Sequence[Word], at: int) -> bool:
    if not 0 < at < len(words) - 2:
        return False
    left, right = words[at - 1], words[at + 1]
    both = {left.pos, right.pos} <= {"ADJF", "PRTF"} and "Apro" not in right.tags
    return both and bool(left.cases & right.cases) and words[at + 2].pos in ("NOUN", "ADJF")
