"""What the servicer asks of a translation engine, and the set of engines one process has loaded."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from narrative.errors import InvalidParameter

IDENTITY = "identity"


@dataclass(frozen=True)
class EngineInfo:
    """How an engine presents itself.

    Attributes:
        name: what requests call it, "gloss".
        sources: ISO 639-1 codes of the languages it reads.
        targets: ISO 639-1 codes of the languages it writes.
        licence: SPDX identifier of its weights; empty where it is not known.
    """

    name: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    licence: str = ""

    def check(self, source: str, target: str) -> None:
        """Raises InvalidParameter, naming what is accepted, if the engine does not translate that way."""
        for field, code, accepted in (
            ("source_language", source, self.sources),
            ("target_language", target, self.targets),
        ):
            if code not in accepted:
                message = f"engine {self.name!r} does not accept {code!r}; it accepts {', '.join(accepted)}"
                raise InvalidParameter(message, field=field)


class TranslationEngine(Protocol):
    """One way to translate. All calls block; ``translate`` may be called from several threads."""

    @property
    def info(self) -> EngineInfo: ...

    def load(self) -> None:
        """Raises WeightsError if the weights are missing or broken."""
        ...

    def close(self) -> None: ...

    def translate(
        self, texts: Sequence[str], source: str, target: str, cancelled: threading.Event | None = None
    ) -> list[str]:
        """Translates non-empty texts; the order is kept. The languages have been checked.

        Args:
            cancelled: set where nobody wants the answer any more; waiting for a device's memory ends then.

        Raises:
            Cancelled: ``cancelled`` was set while it waited.
        """
        ...


class EngineSet:
    """The engines of one process, loaded and closed together.

    Args:
        engines: at least one; names are unique.
        default: name of the engine for requests that name none; empty for the first.
    """

    def __init__(self, engines: Sequence[TranslationEngine], default: str = "") -> None:
        self._engines = {engine.info.name: engine for engine in engines}
        self.default = default or engines[0].info.name
        self._loaded = ExitStack()

    def __iter__(self) -> Iterator[TranslationEngine]:
        return iter(self._engines.values())

    def load(self) -> None:
        with ExitStack() as loaded:
            for engine in self:
                engine.load()
                loaded.callback(engine.close)
            self._loaded = loaded.pop_all()

    def close(self) -> None:
        self._loaded.close()

    def get(self, name: str) -> TranslationEngine:
        """The engine of that name, or the default for an empty one.

        Raises:
            InvalidParameter: no such engine is loaded; names those that are.
        """
        try:
            return self._engines[name or self.default]
        except KeyError:
            message = f"no engine {name!r} here; available: {', '.join(self._engines)}"
            raise InvalidParameter(message, field="engine") from None


def translate_texts(
    engine: TranslationEngine,
    texts: Sequence[str],
    source: str,
    target: str,
    cancelled: threading.Event | None = None,
) -> list[str]:
    """Translates texts of which some may be blank; those come back as they are."""
    filled = [text for text in texts if text.strip()]
    translated = iter(engine.translate(filled, source, target, cancelled) if filled else [])
    return [next(translated) if text.strip() else text for text in texts]
