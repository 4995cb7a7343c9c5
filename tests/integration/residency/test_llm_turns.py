"""The LLM sleeps while others work: vLLM's documented endpoints, played by a small server."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from narrative.errors import InvalidParameter, ServiceUnavailable, WeightsCorrupt
from narrative.runtime.vllm import VllmServer
from services.prompt.llm import OpenAiLlm
from services.prompt.settings import PromptSettings
from services.translation.engine_llm import LlmEngine
from services.translation.settings import TranslationSettings
from tests.integration.residency.residency_node import Holding, Node, Noted, hold

GOOD, DAMAGED = " five, six, seven, eight,", "!!!!!!!!"
SLEEP, WAKE = "/sleep?level=1", "/wake_up"
DROP, READ_ANEW = "/sleep?level=2", ["/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache"]


class Vllm(ThreadingHTTPServer):
    """Both levels of sleep, waking and reading weights anew, as vLLM has them in development mode.

    Attributes:
        says: what it completes the question with that it is asked to see whether its weights are whole.
        loses: how often waking from level 1 damages its weights.
        keeps_losing: its weights are damaged even where they were read anew.
        adapters: LoRA adapters that it serves.
    """

    asleep = False
    can_sleep = True
    can_wake = True
    content = "{}"
    says = GOOD
    loses = 0
    keeps_losing = False
    adapters: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posts: list[str] = []
        self.answered_asleep = 0
        self.is_whole = True
        self.wake_failed = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def restart(self) -> None:
        """What a supervisor does: the weights are read, and it is awake."""
        self.asleep, self.is_whole, self.can_wake = False, True, True


class Handler(BaseHTTPRequestHandler):
    server: Vllm

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            assert self.headers["Authorization"] == "Bearer none"
            adapters = [{"id": name, "parent": "m"} for name in self.server.adapters]
            self.answer(200, {"data": [{"id": "m", "parent": None}, *adapters]})
        else:
            self.answer(200, {"is_sleeping": self.server.asleep})

    def do_POST(self) -> None:
        server, body = self.server, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/v1/completions":
            assert json.loads(body)["temperature"] == 0.0
            server.answered_asleep += server.asleep
            self.answer(200, {"choices": [{"text": server.says if server.is_whole else DAMAGED}]})
            return
        if self.path == "/v1/chat/completions":
            server.answered_asleep += server.asleep
            message = {"role": "assistant", "content": server.content}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.answer(200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})
            return
        server.posts.append(self.path)
        if self.path == "/wake_up" and not server.can_wake:
            server.wake_failed.set()
            self.answer(500, {})
            return
        if not server.can_sleep:
            self.answer(404, {})
            return
        if self.path == "/collective_rpc":
            assert json.loads(body) == {"method": "reload_weights"}
            server.is_whole = not server.keeps_losing
        elif self.path.startswith("/sleep"):
            server.asleep = True
            server.is_whole &= self.path == SLEEP
        elif self.path != "/wake_up?tags=weights":
            server.is_whole &= self.path != WAKE or not server.loses
            server.loses -= self.path == WAKE and server.loses > 0
            server.asleep = False
        self.answer(200, {})

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def vllm() -> Iterator[Vllm]:
    server = Vllm()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@asynccontextmanager
async def taking_turns(node: Node, vllm: Vllm, **options: float) -> AsyncIterator[OpenAiLlm]:
    settings = PromptSettings(
        llm_url=vllm.url, residency_target=node.target, residency_bytes=70, residency_device="host:0", **options
    )
    llm = OpenAiLlm(settings)
    try:
        await asyncio.to_thread(llm.take_turns)
        yield llm
    finally:
        await asyncio.to_thread(llm.close)


async def test_the_llm_sleeps_while_others_work_and_wakes_for_a_call(node: Node, vllm: Vllm) -> None:
    async with taking_turns(node, vllm) as llm:
        assert vllm.asleep
        sdxl = node.owner("diffusion", sdxl=(60, Noted()))
        for _ in range(2):
            answers = await asyncio.gather(*(llm.ask([{"role": "user", "content": "x"}], {}) for _ in range(3)))
            assert [answer.text for answer in answers] == ["{}"] * 3
            assert not vllm.asleep
            await asyncio.to_thread(hold, sdxl, "sdxl")
            assert vllm.asleep
        assert vllm.answered_asleep == 0
        assert vllm.posts == [SLEEP] + [WAKE, SLEEP] * 2


async def test_the_llm_of_translation_takes_turns_too(node: Node, vllm: Vllm) -> None:
    vllm.content = '{"translation": "A cat"}'
    engine = LlmEngine(
        TranslationSettings(
            llm_base_url=vllm.url, llm_bytes=70, llm_device="host:0", residency_target=node.target, llm_model="qwen"
        )
    )
    try:
        await asyncio.to_thread(engine.load)
        sdxl = node.owner("diffusion", sdxl=(60, Noted()))
        for _ in range(2):
            assert await asyncio.to_thread(engine.translate, ["кошка"] * 3, "ru", "en") == ["A cat"] * 3
            await asyncio.to_thread(hold, sdxl, "sdxl")
            assert vllm.asleep
        assert vllm.answered_asleep == 0
    finally:
        await asyncio.to_thread(engine.close)


async def test_a_call_that_is_cancelled_while_it_waits_leaves_no_lease(node: Node, vllm: Vllm) -> None:
    async with taking_turns(node, vllm) as llm:
        holding = Holding(node.owner("diffusion", sdxl=(60, Noted())), "sdxl")
        worker = asyncio.create_task(asyncio.to_thread(holding.run))
        await asyncio.to_thread(holding.held.wait, 10)
        asking = asyncio.create_task(llm.ask([{"role": "user", "content": "x"}], {}))
        await node.until(lambda state: len(state.waiting) == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await node.until(lambda state: not state.waiting)
        holding.enough.set()
        await worker
        await node.until(lambda state: not any(model.leases for model in state.models))


async def test_a_call_is_served_by_a_server_that_did_not_wake_and_was_restarted(node: Node, vllm: Vllm) -> None:
    async with taking_turns(node, vllm) as llm:
        vllm.can_wake = False
        asking = asyncio.create_task(llm.ask([{"role": "user", "content": "x"}], {}))
        assert await asyncio.to_thread(vllm.wake_failed.wait, 10)
        vllm.restart()

        assert (await asking).text == "{}"
        assert vllm.answered_asleep == 0
        # It sleeps again for others, and wakes.
        await asyncio.to_thread(hold, node.owner("diffusion", sdxl=(60, Noted())), "sdxl")
        assert vllm.asleep
        assert (await llm.ask([{"role": "user", "content": "x"}], {})).text == "{}"


def server(vllm: Vllm, **options: float) -> VllmServer:
    return VllmServer(vllm.url, "m", "", 5, **options)


async def test_a_server_that_neither_wakes_nor_comes_back_is_named(node: Node, vllm: Vllm) -> None:
    async with taking_turns(node, vllm, startup_wait_s=1) as llm:
        vllm.can_wake = False
        with pytest.raises(ServiceUnavailable, match="refused /wake_up"):
            await llm.ask([{"role": "user", "content": "x"}], {})
    assert vllm.posts.count(WAKE) > 1


async def test_a_server_that_nobody_wants_any_more_is_not_waited_for(node: Node, vllm: Vllm) -> None:
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))
    async with taking_turns(node, vllm) as llm:
        vllm.can_wake = False
        asking = [asyncio.create_task(llm.ask([{"role": "user", "content": "x"}], {})) for _ in range(2)]
        assert await asyncio.to_thread(vllm.wake_failed.wait, 10)
        await node.until(lambda state: any(model.leases for model in state.models))
        asking[0].cancel()
        vllm.wake_failed.clear()
        assert await asyncio.to_thread(vllm.wake_failed.wait, 10), "the other still wants it"
        asking[1].cancel()
        await node.until(lambda state: not any(model.leases or model.device for model in state.models))
        await asyncio.gather(*asking, return_exceptions=True)
        del asking
        # The memory is free for others.
        await asyncio.to_thread(hold, node.owner("diffusion", sdxl=(60, Noted())), "sdxl")
    gc.collect()
    assert unseen == []


def test_a_server_without_sleep_mode_is_named(vllm: Vllm) -> None:
    vllm.can_sleep = False
    with pytest.raises(ServiceUnavailable, match="--enable-sleep-mode"):
        server(vllm).offload()


def test_weights_that_were_dropped_are_read_anew(vllm: Vllm) -> None:
    movable = server(vllm, level=2)
    for _ in range(2):
        movable.offload()
        assert vllm.asleep
        movable.load("host:0")
        assert not vllm.asleep
        assert vllm.is_whole
    assert vllm.posts == [DROP, *READ_ANEW] * 2


def test_weights_that_came_back_damaged_are_read_anew(vllm: Vllm) -> None:
    movable = server(vllm)
    movable.offload()
    vllm.loses = 1
    movable.load("host:0")
    assert vllm.is_whole
    assert vllm.posts == [SLEEP, WAKE, DROP, *READ_ANEW]
    movable.offload()
    movable.load("host:0")
    assert vllm.posts[6:] == [SLEEP, WAKE]


@pytest.mark.parametrize("adapters", [(), ("storyteller",)])
def test_weights_that_stay_damaged_are_named_and_the_memory_is_given_up(vllm: Vllm, adapters: tuple[str, ...]) -> None:
    movable = server(vllm)
    movable.offload()
    vllm.loses, vllm.keeps_losing, vllm.adapters = 1, True, adapters
    with pytest.raises(WeightsCorrupt, match=r"answers differently than before it slept.*; restart it"):
        movable.load("host:0")
    assert vllm.asleep
    # With adapters, which would be lost, nothing is read anew.
    assert vllm.posts == [SLEEP, WAKE, *([] if adapters else [DROP, *READ_ANEW]), SLEEP]


def test_after_a_restart_another_model_may_answer(vllm: Vllm) -> None:
    movable = server(vllm)
    movable.offload()
    vllm.restart()
    vllm.says = " 5, 6, 7, 8,"
    for _ in range(2):
        movable.load("host:0")
        movable.offload()
    assert vllm.posts == [SLEEP, SLEEP, WAKE, SLEEP]


def test_a_server_with_adapters_is_not_told_to_drop_them(vllm: Vllm) -> None:
    vllm.adapters = ("storyteller",)
    with pytest.raises(InvalidParameter, match="at level 2 it would lose its LoRA adapters storyteller"):
        server(vllm, level=2).offload()
    assert vllm.posts == []
