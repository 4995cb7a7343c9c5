"""The prompt service over gRPC, and the translator, in front of a real vLLM that serves SmolLM2."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from narrative.errors import ModelNotFound, QueueFull
from narrative.runtime.channel import open_channel, rpc_errors
from narrative.runtime.server import ServiceServer
from narrative.v1 import common_pb2, common_pb2_grpc, prompt_pb2, prompt_pb2_grpc
from services.prompt.engine_openai import OpenAiPromptEngine
from services.prompt.llm import OpenAiLlm
from services.prompt.scene_contract import free_schema
from services.prompt.servicer import service
from services.prompt.settings import PromptSettings
from services.prompt.templates import templates
from services.prompt.vocabulary import words_of
from services.translation.engine_llm import LlmEngine
from services.translation.settings import TranslationSettings
from tests.integration.prompt_vllm.conftest import ADAPTER, MAX_RUNNING

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
        stub = prompt_pb2_grpc.PromptServiceStub(channel)
        stub.ListModels = common_pb2_grpc.ModelServiceStub(channel).ListModels
        yield stub
    finally:
        await channel.close()
        await server.stop()


def describing(text: str, model: str = "") -> prompt_pb2.DescribeSpeakerRequest:
    line = prompt_pb2.Line(speaker="A", text=text)
    return prompt_pb2.DescribeSpeakerRequest(speaker="A", lines=[line], language="en", model=model)


def metrics(vllm_url: str, name: str) -> Iterator[Sample]:
    text = httpx.get(f"{vllm_url.removesuffix('/v1')}/metrics").text
    return (item for family in text_string_to_metric_families(text) for item in family.samples if item.name == name)


def total(vllm_url: str, name: str) -> float:
    return sum(sample.value for sample in metrics(vllm_url, name))


async def test_a_chosen_scene_is_what_was_said(vllm_url: str) -> None:
    async with prompt_service(llm_url=vllm_url) as stub:
        first = (await stub.DescribeSpeaker(describing(TEXT), timeout=600)).scene
        second = (await stub.DescribeSpeaker(describing(TEXT), timeout=600)).scene
    assert {"girl", "grass", "dog"} <= set(words_of(first.visual_prompt))
    assert first == second


async def test_what_the_model_says_obeys_the_schema_whatever_it_would_like_to_say(vllm_url: str) -> None:
    one_colour = {"type": "object", "properties": {"colour": {"enum": ["mauve"]}}, "required": ["colour"]}
    llm = OpenAiLlm(PromptSettings(llm_url=vllm_url, llm_timeout_s=600))
    sky = await llm.ask([{"role": "user", "content": "What is the colour of the sky?"}], one_colour)
    answer = await llm.ask(templates("en").scene_messages(TEXT), free_schema())
    await llm.aclose()
    assert json.loads(sky.text) == {"colour": "mauve"}
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


async def test_what_all_prompts_begin_with_is_computed_once(vllm_url: str) -> None:
    texts = [f"A {animal} sits under the old tree." for animal in ("cat", "dog", "fox", "owl", "horse", "goose")]
    words, root = templates("en"), vllm_url.removesuffix("/v1")
    async with httpx.AsyncClient(timeout=60) as client:
        prompts = [
            (await client.post(f"{root}/tokenize", json={"messages": words.scene_messages(text)})).json()["tokens"]
            for text in texts
        ]
    (block_size,) = {int(sample.labels["block_size"]) for sample in metrics(vllm_url, "vllm:cache_config_info")}
    same = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    # Whole blocks are kept.
    shared = sum(1 for _ in same) // block_size * block_size
    async with prompt_service(llm_url=vllm_url) as stub:
        asked, found = (total(vllm_url, f"vllm:prefix_cache_{kind}_total") for kind in ("queries", "hits"))
        await asyncio.gather(*(stub.DescribeSpeaker(describing(text), timeout=600) for text in texts))
        asked = total(vllm_url, "vllm:prefix_cache_queries_total") - asked
        found = total(vllm_url, "vllm:prefix_cache_hits_total") - found
    assert asked == sum(map(len, prompts))
    assert found >= shared * len(texts)
    assert found / asked > 0.8


async def test_an_adapter_of_the_llm_is_a_model_of_its_own(vllm_url: str) -> None:
    def last_run_s() -> float:
        runs = metrics(vllm_url, "vllm:lora_requests_info")
        return max((run.value for run in runs if ADAPTER in run.labels["running_lora_adapters"]), default=0.0)

    before_s = last_run_s()
    async with prompt_service(llm_url=vllm_url) as stub:
        listed = (await stub.ListModels(common_pb2.ListModelsRequest())).models
        await stub.DescribeSpeaker(describing(TEXT), timeout=600)
        assert last_run_s() == before_s
        scene = (await stub.DescribeSpeaker(describing(TEXT, ADAPTER), timeout=600)).scene
        assert last_run_s() > before_s
        with pytest.raises(ModelNotFound, match=f"there are smollm2-135m, {ADAPTER}") as caught, rpc_errors("prompt"):
            await stub.DescribeSpeaker(describing(TEXT, "nobody"), timeout=600)
    assert [(model.id, model.is_default) for model in listed] == [("smollm2-135m", True), (ADAPTER, False)]
    assert VOCABULARY.grounded_share(scene.scene, TEXT) == 1
    assert caught.value.field == "model"


async def test_an_adapter_changes_what_is_said(vllm_url: str) -> None:
    llm = OpenAiLlm(PromptSettings(llm_url=vllm_url, llm_timeout_s=600, llm_max_tokens=48))
    messages = templates("en").scene_messages(TEXT)
    own, adapted, again = [
        (await (await llm.named(name)).ask(messages, free_schema())).text for name in ("", ADAPTER, ADAPTER)
    ]
    await llm.aclose()
    assert own != adapted == again


async def test_calls_are_turned_away_while_vllm_has_enough_to_do(
    vllm_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.prompt.llm_load.FRESH_S", 0.0)
    long = {"model": "smollm2-135m", "prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True}
    async with httpx.AsyncClient(timeout=None) as client, prompt_service(llm_url=vllm_url, llm_max_waiting=0) as stub:
        work = [asyncio.create_task(client.post(f"{vllm_url}/completions", json=long)) for _ in range(MAX_RUNNING + 2)]
        try:
            while total(vllm_url, "vllm:num_requests_waiting") < 2:
                await asyncio.sleep(0.1)
            with pytest.raises(QueueFull, match="2 requests wait at the LLM server") as waiting, rpc_errors("prompt"):
                await stub.DescribeSpeaker(describing(TEXT), timeout=60)
            async with prompt_service(llm_url=vllm_url, startup_wait_s=0, llm_max_kv_cache=0.0001) as other:
                with pytest.raises(QueueFull, match="KV cache") as full, rpc_errors("prompt"):
                    await other.DescribeSpeaker(describing(TEXT), timeout=60)
        finally:
            for task in work:
                task.cancel()
            await asyncio.wait(work)
        assert min(waiting.value.retry_after_s, full.value.retry_after_s) > 0
        while total(vllm_url, "vllm:num_requests_running"):
            await asyncio.sleep(0.1)
        assert (await stub.DescribeSpeaker(describing(TEXT), timeout=600)).scene.visual_prompt


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
