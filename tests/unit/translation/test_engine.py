import threading
from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from gateway.clients import _TEXTS_AT_ONCE
from narrative.errors import InvalidParameter
from services.translation.engine import EngineInfo, EngineSet, translate_texts
from services.translation.engine_fake import FakeEngine
from services.translation.settings import TranslationSettings


class Recorder:
    def __init__(self, name: str, log: list[str], *, broken: bool = False) -> None:
        self.info = EngineInfo(name, ("ru",), ("en",))
        self._log = log
        self._broken = broken

    def load(self) -> None:
        if self._broken:
            raise OSError(self.info.name)
        self._log.append(f"load {self.info.name}")

    def close(self) -> None:
        self._log.append(f"close {self.info.name}")

    def translate(
        self, texts: Sequence[str], source: str, target: str, cancelled: threading.Event | None = None
    ) -> list[str]:
        return list(texts)


def test_first_engine_is_the_default_unless_another_is_named() -> None:
    engines = [Recorder("a", []), Recorder("b", [])]
    assert EngineSet(engines).get("").info.name == "a"
    assert EngineSet(engines, "b").get("").info.name == "b"
    assert EngineSet(engines, "b").get("a").info.name == "a"


def test_unknown_engine_names_those_there_are() -> None:
    with pytest.raises(InvalidParameter, match="available: a, b") as caught:
        EngineSet([Recorder("a", []), Recorder("b", [])]).get("c")
    assert caught.value.field == "engine"


def test_engines_are_closed_in_reverse_and_also_when_one_fails_to_load() -> None:
    log: list[str] = []
    engines = EngineSet([Recorder("a", log), Recorder("b", log)])
    engines.load()
    engines.close()
    assert log == ["load a", "load b", "close b", "close a"]
    log.clear()
    with pytest.raises(OSError, match="b"):
        EngineSet([Recorder("a", log), Recorder("b", log, broken=True)]).load()
    assert log == ["load a", "close a"]


@pytest.mark.parametrize(
    ("source", "target", "field"), [("de", "en", "source_language"), ("ru", "fr", "target_language")]
)
def test_language_out_of_reach_names_what_is_accepted(source: str, target: str, field: str) -> None:
    with pytest.raises(InvalidParameter, match=r"accepts (ru|en)") as caught:
        EngineInfo("gloss", ("ru",), ("en",)).check(source, target)
    assert caught.value.field == field


def test_blank_texts_come_back_as_they_are_in_their_places() -> None:
    assert translate_texts(FakeEngine(), ["", "дом", " \n", "лес"], "ru", "en") == [
        "",
        "[ru>en] дом",
        " \n",
        "[ru>en] лес",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"engines": []},
        {"engines": ["gloss", "gloss"]},
        {"engines": ["google"]},
        {"default_engine": "llm"},
        {"ctranslate2_languages": ["russian"]},
        {"gloss_min_similarity": 0.0},
    ],
)
def test_settings_refuse_what_makes_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TranslationSettings(**wrong)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARRATIVE_TRANSLATION__ENGINES", '["gloss", "llm"]')
    monkeypatch.setenv("NARRATIVE_TRANSLATION__DEFAULT_ENGINE", "llm")
    settings = TranslationSettings()
    assert settings.engines == ["gloss", "llm"]
    assert settings.default_engine == "llm"


def test_as_many_texts_as_a_gateway_sends_are_always_taken() -> None:
    assert TranslationSettings(max_texts=_TEXTS_AT_ONCE).max_texts == _TEXTS_AT_ONCE
    with pytest.raises(ValidationError, match="max_texts"):
        TranslationSettings(max_texts=_TEXTS_AT_ONCE - 1)
