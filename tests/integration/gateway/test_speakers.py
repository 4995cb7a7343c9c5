"""What becomes of short, empty and misheard lines, through the real gloss and the real scene pipeline."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from gateway import speakers
from gateway.clients import Services
from gateway.options import NarrativeOptions
from gateway.settings import GatewaySettings
from narrative.errors import InvalidParameter
from narrative.runtime.server import Service, ServiceServer
from narrative.settings import CommonSettings, ServiceSettings
from services.prompt.engine import Line, ModelInfo, SpeakerScene
from services.prompt.engine_fake import FakePromptEngine
from services.prompt.llm import Answer, Llm, Message, Schema
from services.prompt.pipeline import ScenePipeline
from services.prompt.servicer import service as prompt_service
from services.prompt.settings import PromptSettings
from services.prompt.templates import templates
from services.translation.servicer import make_service
from services.translation.settings import TranslationSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONLY_TALK = templates("en").only_talk.scene
GIRL = "Маленькая девочка сидит на зелёной траве."
DOG = "Большая собака спит под столом."


class FirstChoice(Llm):
    """Takes the first scene that the schema lets it choose."""

    async def ask(self, messages: Sequence[Message], schema: Schema) -> Answer:
        properties = schema.get("anyOf", [schema])[0]["properties"]
        scene, style = properties["scene"]["const"], properties["style"]["enum"][0]
        return Answer(json.dumps({"scene": scene, "style": style, "details": []}), True)


class Writer(FakePromptEngine):
    """The pipeline around that."""

    def __init__(self, settings: PromptSettings) -> None:
        super().__init__(settings)
        self._pipeline = ScenePipeline(FirstChoice(), settings)

    def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo("first-choice", "test", "", ("en",))]

    async def describe(
        self, speaker: str, lines: Sequence[Line], language: str, style: str = "", model: str = ""
    ) -> SpeakerScene:
        return await self._pipeline.describe(speaker, lines, language, style)


async def serve(service: Service, settings: ServiceSettings, stack: AsyncExitStack) -> str:
    server = ServiceServer(service, settings)
    stack.push_async_callback(server.stop)
    port = await server.start()
    await server.load()
    return f"127.0.0.1:{port}"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def services(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        translating, writing = TranslationSettings(port=0, drain_s=0.0), PromptSettings(port=0, drain_s=0.0)
        clients = Services(
            GatewaySettings(
                common=CommonSettings(data_dir=tmp_path_factory.mktemp("gateway")),
                translation_target=await serve(make_service(translating), translating, stack),
                prompt_target=await serve(prompt_service(Writer(writing)), writing, stack),
            )
        )
        stack.push_async_callback(clients.close)
        yield clients


def said(*lines: str | tuple[str, str]) -> list[dict[str, Any]]:
    """Segments of one speaker; a line is Russian unless it comes with its language."""
    told = [(line, "ru") if isinstance(line, str) else line for line in lines]
    return [
        {
            "id": number,
            "text": text,
            "language": language,
            "start_s": 2.0 * number,
            "end_s": 2.0 * number + 1.5,
            "english_text": "",
        }
        for number, (text, language) in enumerate(told)
    ]


async def describe(services: Services, segments: list[dict[str, Any]], engine: str = "", **more: Any) -> dict[str, Any]:
    options = NarrativeOptions(translation_engine=engine)
    return await speakers.describe(services, "SPEAKER_00", segments, options, **more)


async def test_one_of_three_speakers_says_nothing_that_could_be_seen(services: Services) -> None:
    told = await asyncio.gather(
        *(describe(services, said(text)) for text in (GIRL, "Спасибо, до свидания.", DOG)),
    )
    scenes = [one["scene"] for one in told]
    assert scenes[1] == ONLY_TALK
    assert "girl" in scenes[0]
    assert "dog" in scenes[2]
    assert told[1]["prompt"].startswith(ONLY_TALK)
    assert told[1]["text"] == "Спасибо, до свидания."
    assert told[1]["lines"]["0"] == {
        "normalized_text": "Спасибо, до свидания.",
        "english_text": "Thank you, goodbye.",
    }


@pytest.mark.parametrize("line", ["Ага, понятно.", "Хорошо, ладно.", "Да.", "Нет.", "Привет!", "Пока, спасибо!"])
async def test_short_replies_are_somebody_talking(services: Services, line: str) -> None:
    assert (await describe(services, said(line)))["scene"] == ONLY_TALK


@pytest.mark.parametrize("line", ["Ну вот.", "Блин.", ("Mm-hmm.", "en"), ("...", "en"), ("♪", "en"), ("", "en")])
async def test_lines_that_show_nothing_are_somebody_talking(services: Services, line: Any) -> None:
    assert (await describe(services, said(line)))["scene"] == ONLY_TALK


async def test_a_speaker_of_whom_whisper_translated_nothing_is_seen_talking(services: Services) -> None:
    told = await describe(services, said("Ну вот."), speakers.WHISPER)
    assert (told["scene"], told["translation_engine"]) == (ONLY_TALK, speakers.WHISPER)


async def test_wordless_lines_beside_others_change_nothing(services: Services) -> None:
    alone = await describe(services, said(GIRL))
    beside = await describe(services, said("Угу.", GIRL, "Ну вот."))
    assert "english_text" not in beside["lines"]["2"]
    assert beside["prompt"] == alone["prompt"]
    assert beside["lines"].keys() == {"0", "1", "2"}


async def test_a_speaker_of_600_lines_is_translated_in_pieces(services: Services) -> None:
    things = ["Кот спит.", "Идёт снег.", "Идёт дождь."]
    told = await describe(services, said(*(things[number % 3] for number in range(600))))
    english = [told["lines"][str(number)]["english_text"] for number in range(600)]
    assert english == ["A cat sleeping.", "Snow falling.", "Rain falling."] * 200
    assert "cat" in told["scene"]


@pytest.mark.parametrize("language", ["bg", "haw", "yue", ""])
async def test_a_line_whose_language_was_misheard_is_left_out(services: Services, language: str) -> None:
    told = await describe(services, said(GIRL, ("Да", language), DOG))
    assert told["left_out_languages"] == [language]
    assert told["lines"]["1"] == {"normalized_text": "Да"}
    assert told["prompt"] == (await describe(services, said(GIRL, DOG)))["prompt"]


async def test_a_speaker_who_was_only_misheard_is_seen_talking_as_long_as_others_are_understood(
    services: Services,
) -> None:
    told = await describe(services, said(("Да", "bg")), spoken={"bg", "ru"})
    assert (told["scene"], told["text"]) == (ONLY_TALK, "Да")
    assert told["left_out_languages"] == ["bg"]


async def test_where_nobody_is_understood_the_way_out_is_named(services: Services) -> None:
    german = said(("Ein Mädchen sitzt im Gras.", "de"))
    with pytest.raises(InvalidParameter, match=r"reads de.*writer reads en.*'gloss' ru.*translation whisper") as caught:
        await describe(services, german)
    assert caught.value.field == "translation_engine"
    german[0]["english_text"] = "A girl is sitting in the grass."
    told = await describe(services, german, speakers.WHISPER)
    assert "girl" in told["scene"]
    assert told["left_out_languages"] == []
