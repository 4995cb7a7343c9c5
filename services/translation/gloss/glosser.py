"""The scene gloss of a text, line by line and sentence by sentence."""

import re
from collections.abc import Sequence
from functools import lru_cache

from razdel import sentenize

from services.translation.gloss.chunks import CONCEPT_PARTS, Chunker, concept_key
from services.translation.gloss.clauses import sentence
from services.translation.gloss.lexicon import Lexicon
from services.translation.gloss.linker import Linker
from services.translation.gloss.morphology import Word, analyse, in_dictionary, lemmas
from services.translation.gloss.spelling import respell

_LINE_BREAKS = re.compile(r"([\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+)")

# Noun phrases and clauses nest; what has no full stop must not nest without end.
_MAX_SENTENCE_WORDS = 100


class Glosser:
    """Turns Russian texts into English scene glosses.

    Args:
        lexicon: the tables.
        linker: finds concepts for the words that the tables do not have; loaded by the caller.
    """

    def __init__(self, lexicon: Lexicon, linker: Linker) -> None:
        self._lexicon = lexicon
        self._linker = linker
        self._correct = lru_cache(maxsize=5_000)(lambda word: respell(word, in_dictionary, self._is_common))

    def gloss(self, texts: Sequence[str]) -> list[str]:
        """The gloss of every text; line breaks stay where they are."""
        lines = [_LINE_BREAKS.split(text) for text in texts]
        sentences = {line: self._analyse(line) for parts in lines for line in parts[::2]}
        concepts = self._link([word for parts in sentences.values() for words in parts for word in words])
        chunker = Chunker(self._lexicon, concepts.get)
        glossed = {
            line: " ".join(filter(None, (sentence(chunker.chunks(words), self._lexicon.government) for words in parts)))
            for line, parts in sentences.items()
        }
        return ["".join(part if index % 2 else glossed[part] for index, part in enumerate(parts)) for parts in lines]

    def _analyse(self, line: str) -> list[list[Word]]:
        analysed = (analyse(part.text, self._lexicon.governed, self._correct) for part in sentenize(line))
        return [
            words[at : at + _MAX_SENTENCE_WORDS]
            for words in analysed
            for at in range(0, len(words), _MAX_SENTENCE_WORDS)
        ]

    def _link(self, words: Sequence[Word]) -> dict[tuple[str, str], str]:
        keys = dict.fromkeys(key for word in words if (key := concept_key(word)) and key not in self._lexicon.words)
        return self._linker.link(keys)

    def _is_common(self, word: str) -> bool:
        return any((lemma, CONCEPT_PARTS.get(part, "")) in self._lexicon.words for lemma, part in lemmas(word))
