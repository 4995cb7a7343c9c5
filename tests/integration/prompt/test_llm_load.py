"""What a server of vLLM's kind says about itself: how busy it is, and which adapters it has."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from narrative.errors import ModelNotFound, QueueFull
from narrative.runtime.channel import rpc_errors
from narrative.v1 import common_pb2, common_pb2_grpc, prompt_pb2
from services.prompt.llm import LOOK_S

SCENE = {"scene": "dog on the grass", "style": "watercolor, soft light", "details": []}
METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="m"}} {running}
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0",model_name="m"}} {waiting}
vllm:num_requests_waiting{{engine="1",model_name="m"}} 1.0
vllm:num_requests_waiting_by_reason{{engine="0",model_name="m",reason="capacity"}} {waiting}
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{engine="0",model_name="m"}} 0.25
vllm:kv_cache_usage_perc{{engine="1",model_name="m"}} {kv_cache}
"""


class Vllm:
    """Answers as vLLM does; its fields are what it says.

    Attributes:
        metrics: body of /metrics; None is 404.
        adapters: LoRA adapters it lists.
        list_s: seconds that takes it.
        asked: how often each path was asked for, and each model for an answer.
    """

    def __init__(self) -> None:
        self.metrics: str | None = METRICS.format(running=1, waiting=0, kv_cache=0)
        self.adapters = ["storyteller"]
        self.list_s = 0.0
        self.asked: Counter[str] = Counter()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            size = next(
                (int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-l")), 0
            )
            request = json.loads(await reader.readexactly(size)) if size else {}
            if head.split()[1] == "/v1/models":
                await asyncio.sleep(self.list_s)
            status, kind, body = self.answer(head.split()[1], request)
            length = f"Content-Length: {len(body)}\r\nConnection: close"
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{length}\r\n\r\n{body}".encode())
            await writer.drain()
        finally:
            writer.close()

    def answer(self, path: str, request: dict[str, Any]) -> tuple[int, str, str]:
        self.asked[path] += 1
        if path == "/metrics":
            return (404, "text/plain", "") if self.metrics is None else (200, "text/plain", self.metrics)
        if path == "/v1/models":
            names = [("m", None), *((name, "m") for name in self.adapters)]
            listed = [
                {"id": name, "object": "model", "created": 0, "owned_by": "vllm", "parent": of} for name, of in names
            ]
            return 200, "application/json", json.dumps({"object": "list", "data": listed})
        if request["model"] not in ("m", *self.adapters):
            return 404, "application/json", json.dumps({"error": {"message": "The model does not exist."}})
        self.asked[request["model"]] += 1
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": json.dumps(SCENE)}}
        completion = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return 200, "application/json", json.dumps(completion)


@pytest.fixture
async def vllm() -> AsyncIterator[Vllm]:
    vllm = Vllm()
    server = await asyncio.start_server(vllm.serve, "127.0.0.1", 0)
    async with server:
        vllm.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        yield vllm


@pytest.fixture
def prompt(vllm: Vllm, connect: Any) -> Any:
    @asynccontextmanager
    async def connected(**settings: Any) -> AsyncIterator[tuple[Any, Any]]:
        async with connect(llm_url=vllm.url, llm_model="m", **settings) as (stub, channel):

            async def describe(model: str = "") -> prompt_pb2.Scene:
                line = prompt_pb2.Line(speaker="A", text="A dog on the grass.")
                request = prompt_pb2.DescribeSpeakerRequest(speaker="A", lines=[line], language="en", model=model)
                with rpc_errors("prompt"):
                    return (await stub.DescribeSpeaker(request, timeout=20)).scene

            yield describe, common_pb2_grpc.ModelServiceStub(channel)

    return connected


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (METRICS.format(running=1, waiting=4, kv_cache=0), "5 requests wait at the LLM server at .*, at most 4 may"),
        (
            METRICS.format(running=1, waiting=0, kv_cache=0.96),
            "KV cache .* is 96% full, at most 95% may be",
        ),
    ],
)
async def test_calls_are_turned_away_while_the_server_has_enough_to_do(
    said: str, told: str, vllm: Vllm, prompt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.prompt.llm_load.FRESH_S", 0.0)
    async with prompt(llm_max_waiting=4) as (describe, _):
        assert (await describe()).scene == SCENE["scene"]
        vllm.metrics = said
        with pytest.raises(QueueFull, match=told) as caught:
            await describe()
        assert caught.value.retry_after_s > 0
        for has_room in ({"running": 1, "waiting": 3, "kv_cache": 0.95}, {"running": 0, "waiting": 9, "kv_cache": 1}):
            vllm.metrics = METRICS.format(**has_room)
            assert (await describe()).scene == SCENE["scene"]


@pytest.mark.parametrize("said", [None, "", "llamacpp:requests_deferred 99\n", 'vllm:num_requests_waiting{"} what?\n'])
async def test_a_server_without_these_metrics_is_asked_once(
    said: str | None, vllm: Vllm, prompt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.prompt.llm_load.FRESH_S", 0.0)
    vllm.metrics = said
    async with prompt(llm_max_waiting=0) as (describe, _):
        for _ in range(3):
            assert (await describe()).scene == SCENE["scene"]
    assert vllm.asked["/metrics"] == 1


async def test_what_asks_no_llm_is_not_turned_away(vllm: Vllm, connect: Any) -> None:
    vllm.metrics = METRICS.format(running=1, waiting=99, kv_cache=1)
    request = prompt_pb2.NormalizeTextRequest(texts=["a dog ,on the grass"], language="en")
    async with connect(llm_url=vllm.url, llm_model="m") as (stub, _):
        assert list((await stub.NormalizeText(request)).normalized_texts) == ["A dog, on the grass."]
    async with connect(llm_url=vllm.url, llm_model="m", normalize_with_llm=True) as (stub, _):
        with pytest.raises(QueueFull), rpc_errors("prompt"):
            await stub.NormalizeText(request)


async def test_many_calls_at_once_read_the_metrics_once(vllm: Vllm, prompt: Any) -> None:
    async with prompt() as (describe, _):
        await asyncio.gather(*(describe() for _ in range(8)))
    assert vllm.asked["/metrics"] == 1


async def test_adapters_are_listed_and_asked_by_name(vllm: Vllm, prompt: Any) -> None:
    async with prompt(llm_max_concurrency=1) as (describe, models):
        before = vllm.asked["m"]
        await describe("storyteller")
        assert (vllm.asked["storyteller"], vllm.asked["m"]) == (1, before)
        listed = (await models.ListModels(common_pb2.ListModelsRequest())).models
        assert [(model.id, model.is_default) for model in listed] == [("m", True), ("storyteller", False)]
        assert [list(model.languages) for model in listed] == [["en"], ["en"]]
        with pytest.raises(ModelNotFound, match="no model 'poet'; there are m, storyteller") as caught:
            await describe("poet")
        assert caught.value.field == "model"


async def test_an_adapter_may_come_and_go_while_the_service_runs(vllm: Vllm, prompt: Any) -> None:
    async with prompt() as (describe, models):
        for name in ("poet", "teller"):
            vllm.adapters = [name]
            await describe(name)
        vllm.adapters = ["poet"]
        # The gateway refuses what is not listed: nobody could be the first to ask for it there.
        listed = (await models.ListModels(common_pb2.ListModelsRequest())).models
        assert [model.id for model in listed] == ["m", "poet"]
        vllm.adapters = []
        with pytest.raises(ModelNotFound, match="no model 'poet'; there are m"):
            await describe("poet")


async def test_a_server_that_is_slow_to_list_its_adapters_holds_nobody_up(vllm: Vllm, prompt: Any) -> None:
    async with prompt() as (_, models):

        async def listed() -> list[str]:
            answer = await models.ListModels(common_pb2.ListModelsRequest(), timeout=4 * LOOK_S)
            return [model.id for model in answer.models]

        vllm.adapters, vllm.list_s = ["poet"], 5 * LOOK_S
        assert await listed() == ["m", "storyteller"]
        await asyncio.sleep(5 * LOOK_S)
        assert await listed() == ["m", "poet"], "what came late is there for the next"
