"""Russian to English scene gloss, the embedded default: see ``services.translation.gloss``."""

import threading
from collections.abc import Sequence

from services.translation.engine import EngineInfo
from services.translation.gloss.glosser import Glosser
from services.translation.gloss.lexicon import Lexicon
from services.translation.gloss.linker import Linker


class GlossEngine:
    """Content words linked to English concepts; order, number and prepositions kept as far as morphology allows.

    Args:
        min_similarity: least cosine at which a word is linked.
        threads: threads of the sentence encoder.
    """

    info = EngineInfo("gloss", sources=("ru",), targets=("en",), licence="Apache-2.0")

    def __init__(self, min_similarity: float = 0.72, threads: int = 2) -> None:
        self._lexicon = Lexicon()
        self._linker = Linker(self._lexicon.concepts, min_similarity, threads)
        self._glosser = Glosser(self._lexicon, self._linker)

    def load(self) -> None:
        """Raises WeightsCorrupt if the embedded vocabulary is stale."""
        self._linker.load()
        self._glosser.gloss(["дом"])  # Reads the morphological dictionary now, not at the first call.

    def close(self) -> None:
        self._linker.close()

    def translate(
        self, texts: Sequence[str], source: str, target: str, cancelled: threading.Event | None = None
    ) -> list[str]:
        return self._glosser.gloss(texts)
