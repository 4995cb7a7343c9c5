"""The prompt service over gRPC, and the translator, in front of a real vLLM that serves SmolLM2."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from narrative.runtime.channel import open_channel
from narrative.runtime.server import ServiceServer
from narrative.v1 import prompt_pb2, prompt_pb2_grpc
from services.prompt.engine_openai import OpenAiPromptEngine
from services.prompt.llm import OpenAiLlm
from services.prompt.scene_contract import free_schema
from services.prompt.servicer import service
from services.prompt.settings import PromptSettings
from services.prompt.templates import templates
from services.prompt.vocabulary import words_of
from services.translation.engine_llm import LlmEngine
from services.translation.settings import TranslationSettings

VOCABULARY = templates("en").vocabulary
TEXT = "A little girl is sitting on the green grass next to a large brown dog."

pytestmark = pytest.mark.timeout(900)


@asynccontextmanager
async def prompt_service(**chosen: Any) -> AsyncIterator[Any]:
    settings = PromptSettings(port=0, drain_s=1, llm_timeout_s=600, llm_max_concurrency=32, **chosen)
    server = ServiceServer(service(OpenAiPromptEngine(settings)), settings)
    port = await server.start()
    await server.load()
    channel = open_channel(f"127.0.0.1:{port}")
    try:
        yield prompt_pb2_grpc.PromptServiceStub(channel)
    finally:
        await channel.close()
        await server.stop()


async def test_a_chosen_scene_is_what_was_said(vllm_url: str) -> None:
    request = prompt_pb2.DescribeSpeakerRequest(
        speaker="A", lines=[prompt_pb2.Line(speaker="A", text=TEXT)], language="en"
    )
    async with prompt_service(llm_url=vllm_url) as stub:
        first = (await stub.DescribeSpeaker(request, timeout=600)).scene
        second = (await stub.DescribeSpeaker(request, timeout=600)).scene
    assert {"girl", "grass", "dog"} <= set(words_of(first.visual_prompt))
    assert first == second


async def test_a_freely_written_answer_obeys_the_schema(vllm_url: str) -> None:
    llm = OpenAiLlm(PromptSettings(llm_url=vllm_url, llm_timeout_s=600))
    answer = await llm.ask(templates("en").scene_messages(TEXT), free_schema())
    await llm.aclose()
    fields = json.loads(answer.text)
    assert set(fields) == {"scene", "style", "details"}
    assert len(fields["details"]) <= 4


async def test_free_wording_is_borne_out_by_the_text_or_chosen_from_it(vllm_url: str, speech: Path) -> None:
    said = [line for line in json.loads((speech / "mixed3.json").read_text()) if line["speaker"] != "R"]
    lines = [prompt_pb2.Line(id=i, speaker=line["speaker"], text=line["text"]) for i, line in enumerate(said)]
    async with prompt_service(llm_url=vllm_url, wording="free") as stub:
        answers = [item async for item in stub.Process(prompt_pb2.ProcessRequest(lines=lines, language="en"))]
    described = [item.speaker.scene for item in answers if item.HasField("speaker")]
    assert {scene.speaker for scene in described} == {"S", "M"}
    assert all(VOCABULARY.grounded_share(scene.scene, scene.text) >= 0.6 for scene in described)


async def test_sixteen_speakers_at_the_same_time(vllm_url: str) -> None:
    animals = ["cat", "dog", "fox", "owl"]
    places = ["forest", "garden", "street", "kitchen"]
    said = {f"{animal} {place}": f"The {animal} is in the {place}." for animal in animals for place in places}
    lines = [prompt_pb2.Line(speaker=speaker, text=text) for speaker, text in said.items()]
    async with prompt_service(llm_url=vllm_url) as stub:
        answers = [item async for item in stub.Process(prompt_pb2.ProcessRequest(lines=lines, language="en"))]
    described = {item.speaker.scene.speaker: item.speaker.scene.scene for item in answers if item.HasField("speaker")}
    assert set(described) == set(said)
    assert all(set(speaker.split()) <= set(words_of(scene)) for speaker, scene in described.items())


def test_the_translation_service_has_its_answers_from_the_same_server(vllm_url: str) -> None:
    # So small a model translates badly; that every text comes back through the schema is what is looked at.
    engine = LlmEngine(TranslationSettings(llm_base_url=vllm_url, llm_model="smollm2-135m", llm_timeout_s=600))
    engine.load()
    try:
        translated = engine.translate(["Le chat dort.", "Guten Morgen"], "fr", "en")
    finally:
        engine.close()
    assert len(translated) == 2
    assert all(translated)
