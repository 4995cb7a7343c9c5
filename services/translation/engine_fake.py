"""A stand-in of known speed, to test and load the ring around the engines; never a default."""

import threading
import time
from collections.abc import Sequence

from services.translation.engine import EngineInfo


class FakeEngine:
    """Marks every text with the two languages, after a fixed time.

    Args:
        seconds_per_text: service time.
    """

    info = EngineInfo("fake", sources=("ru", "de", "en"), targets=("en", "ru"))

    def __init__(self, seconds_per_text: float = 0.0) -> None:
        self._seconds_per_text = seconds_per_text

    def load(self) -> None: ...

    def close(self) -> None: ...

    def translate(
        self, texts: Sequence[str], source: str, target: str, cancelled: threading.Event | None = None
    ) -> list[str]:
        time.sleep(self._seconds_per_text * len(texts))
        return [f"[{source}>{target}] {text}" for text in texts]
