"""Several requests in one call of an engine."""

import threading
from collections.abc import Sequence

from narrative.errors import InvalidParameter, NarrativeError, OutOfMemory
from services.translation.engine import EngineInfo, EngineSet
from services.translation.together import Asked, translate_together


class Noting:
    """Notes its calls; refuses to translate "boom"."""

    def __init__(self, name: str) -> None:
        self.info = EngineInfo(name, ("ru", "de"), ("en",))
        self.calls: list[list[str]] = []

    def load(self) -> None: ...

    def close(self) -> None: ...

    def translate(
        self, texts: Sequence[str], source: str, target: str, cancelled: threading.Event | None = None
    ) -> list[str]:
        self.calls.append(list(texts))
        if "boom" in texts:
            raise OutOfMemory("no room")
        return [f"{source}:{text}" for text in texts]


def test_what_goes_the_same_way_is_one_call_and_everybody_gets_their_own() -> None:
    engine = Noting("a")

    answers = translate_together(
        EngineSet([engine]), [Asked(("1", "2"), "ru", "en"), Asked(("3",), "de", "en"), Asked(("4", " "), "ru", "en")]
    )

    assert answers == [["ru:1", "ru:2"], ["de:3"], ["ru:4", " "]]
    assert engine.calls == [["1", "2", "4"], ["3"]]


def test_a_request_that_is_wrong_fails_alone() -> None:
    answers = translate_together(
        EngineSet([Noting("a")]), [Asked(("1",), "fr", "en"), Asked(("2",), "ru", "en"), Asked(("3",), "ru", "en", "b")]
    )

    assert isinstance(answers[0], InvalidParameter)
    assert answers[1] == ["ru:2"]
    assert isinstance(answers[2], InvalidParameter)


def test_an_engine_that_fails_fails_what_it_was_given_together() -> None:
    answers = translate_together(
        EngineSet([Noting("a")]), [Asked(("1",), "ru", "en"), Asked(("boom",), "ru", "en"), Asked(("2",), "de", "en")]
    )

    assert [isinstance(answer, NarrativeError) for answer in answers] == [True, True, False]


def test_a_request_without_texts_is_no_mistake() -> None:
    assert translate_together(EngineSet([Noting("a")]), [Asked((), "", "")]) == [[]]
