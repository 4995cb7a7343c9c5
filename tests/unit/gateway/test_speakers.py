from typing import Any

import pytest

from gateway.options import NarrativeOptions
from gateway.speakers import (
    _runs,
    describe,
    description_language,
    drawing_request,
    png_size,
    readable_languages,
    translator,
)
from narrative.v1 import common_pb2, prompt_pb2


def said(*spoken: tuple[str, float]) -> list[dict[str, Any]]:
    return [{"language": language, "start_s": 0.0, "end_s": seconds} for language, seconds in spoken]


@pytest.mark.parametrize(
    ("segments", "readable", "expected"),
    [
        (said(("ru", 5), ("en", 1)), set(), "ru"),
        (said(("ru", 5), ("en", 1)), {"en"}, "en"),
        (said(("ru", 5), ("en", 1)), {"en", "ru"}, "ru"),
        (said(("ru", 1), ("en", 1.5), ("ru", 1)), {"en", "ru"}, "ru"),
        (said(("fr", 5)), {"ru", "de"}, "de"),
        (said(("", 5), ("ru", 1)), set(), "ru"),
        (said(("", 5)), set(), "en"),
    ],
)
def test_a_speaker_is_described_in_the_language_mostly_spoken(
    segments: list[dict[str, Any]], readable: set[str], expected: str
) -> None:
    assert description_language(segments, frozenset(readable)) == expected


def test_the_default_scene_writer_says_what_it_reads_unless_another_is_named() -> None:
    models = [
        common_pb2.Model(id="a", task="TASK_SCENE_WRITING", languages=["de"]),
        common_pb2.Model(id="b", task="TASK_SCENE_WRITING", languages=["en", "ru"], is_default=True),
        common_pb2.Model(id="c", task="TASK_TRANSLATION", languages=["fr"]),
    ]
    assert readable_languages(models) == {"en", "ru"}
    assert readable_languages(models, "a") == {"de"}
    assert readable_languages(models, "an adapter not listed yet") == {"en", "ru"}
    assert readable_languages([]) == frozenset()


def test_the_default_engine_translates_unless_another_is_named() -> None:
    models = [
        common_pb2.Model(id="gloss", task="TASK_TRANSLATION", languages=["ru"]),
        common_pb2.Model(id="llm", task="TASK_TRANSLATION", languages=["de", "ru"], is_default=True),
        common_pb2.Model(id="gloss", task="TASK_SCENE_WRITING", languages=["en"]),
    ]
    assert (translator(models, "").id, translator(models, "gloss").id) == ("llm", "gloss")
    assert list(translator(models, "gloss").languages) == ["ru"]
    assert not translator(models, "other").languages


async def test_lines_that_nobody_understood_do_not_choose_the_language_of_the_scene() -> None:
    writer = common_pb2.Model(id="w", task="TASK_SCENE_WRITING", languages=["en", "ru"], is_default=True)
    gloss = common_pb2.Model(id="gloss", task="TASK_TRANSLATION", languages=["ru"], is_default=True)
    asked: list[Any] = []

    class Services:
        async def models(self, service: str) -> list[common_pb2.Model]:
            return [writer] if service == "prompt" else [gloss]

        async def describe(self, request: prompt_pb2.DescribeSpeakerRequest) -> prompt_pb2.DescribeSpeakerResponse:
            asked.append(request)
            return prompt_pb2.DescribeSpeakerResponse(scene=prompt_pb2.Scene(visual_prompt="лошадь у реки"))

        async def translate(self, texts: list[str], *languages: str) -> tuple[list[str], str]:
            return [f"{languages[0]} to {languages[1]}"], "gloss"

    segments = [
        {**one, "id": number, "text": text, "english_text": ""}
        for number, (one, text) in enumerate(
            zip(said(("uk", 6), ("ru", 5)), ("Добрий день", "Лошадь у реки"), strict=True)
        )
    ]
    services: Any = Services()
    told = await describe(services, "A", segments, NarrativeOptions())
    assert [asked[0].language, *(line.text for line in asked[0].lines)] == ["ru", "", "Лошадь у реки"]
    assert (told["prompt"], told["left_out_languages"]) == ("ru to en", ["uk"])


def test_only_what_was_asked_for_reaches_the_painter() -> None:
    plain = drawing_request(NarrativeOptions(), "a boat", None, 1)
    assert not plain.HasField("seed")
    assert not plain.HasField("guidance_scale")
    options = NarrativeOptions.model_validate(
        {"guidance_scale": 0.0, "adapters": [{"name": "ink", "weight": 0.5, "text_encoder_weight": 0.0}]}
    )
    full = drawing_request(options, "a boat", 0, 2)
    assert full.HasField("seed")
    assert full.HasField("guidance_scale")
    assert full.adapters[0].HasField("text_encoder_weight")


def test_runs_of_missing_pictures() -> None:
    assert list(_runs([])) == []
    assert list(_runs([3])) == [(3, 1)]
    assert list(_runs([0, 1, 4, 6, 7, 8])) == [(0, 2), (4, 1), (6, 3)]


def test_size_of_a_png() -> None:
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x01\x00\x00\x00\x00\x80"
    assert png_size(header) == (256, 128)
