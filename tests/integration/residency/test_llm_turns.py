"""The LLM sleeps while others work: vLLM's documented endpoints, played by a small server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from narrative.errors import ServiceUnavailable
from narrative.runtime.vllm import VllmServer
from services.prompt.llm import OpenAiLlm
from services.prompt.settings import PromptSettings
from services.translation.engine_llm import LlmEngine
from services.translation.settings import TranslationSettings
from tests.integration.residency.residency_node import Holding, Node, Noted, hold


class Vllm(ThreadingHTTPServer):
    """Sleep level 1, wake_up and is_sleeping as vLLM has them in development mode."""

    asleep = False
    can_sleep = True
    can_wake = True
    content = "{}"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posts: list[str] = []
        self.answered_asleep = 0
        self.wake_failed = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Vllm

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self.answer(200, {"is_sleeping": self.server.asleep})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/v1/chat/completions":
            self.server.answered_asleep += self.server.asleep
            message = {"role": "assistant", "content": self.server.content}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.answer(200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})
            return
        self.server.posts.append(self.path)
        if self.path == "/wake_up" and not self.server.can_wake:
            self.server.wake_failed.set()
            self.answer(500, {})
            return
        if not self.server.can_sleep:
            self.answer(404, {})
            return
        self.server.asleep = self.path.startswith("/sleep")
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


async def test_the_llm_sleeps_while_others_work_and_wakes_for_a_call(node: Node, vllm: Vllm) -> None:
    settings = PromptSettings(
        llm_url=vllm.url, residency_target=node.target, residency_bytes=70, residency_device="host:0"
    )
    llm = OpenAiLlm(settings)
    try:
        await asyncio.to_thread(llm.take_turns)
        assert vllm.asleep
        sdxl = node.owner("diffusion", sdxl=(60, Noted()))
        for _ in range(2):
            answers = await asyncio.gather(*(llm.ask([{"role": "user", "content": "x"}], {}) for _ in range(3)))
            assert [answer.text for answer in answers] == ["{}"] * 3
            assert not vllm.asleep
            await asyncio.to_thread(hold, sdxl, "sdxl")
            assert vllm.asleep
        assert vllm.answered_asleep == 0
        assert vllm.posts == ["/sleep?level=1"] + ["/wake_up", "/sleep?level=1"] * 2
    finally:
        await asyncio.to_thread(llm.close)


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
    settings = PromptSettings(
        llm_url=vllm.url, residency_target=node.target, residency_bytes=70, residency_device="host:0"
    )
    llm = OpenAiLlm(settings)
    try:
        await asyncio.to_thread(llm.take_turns)
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
    finally:
        await asyncio.to_thread(llm.close)


async def test_a_call_is_served_by_a_server_that_did_not_wake_and_was_restarted(node: Node, vllm: Vllm) -> None:
    settings = PromptSettings(
        llm_url=vllm.url, residency_target=node.target, residency_bytes=70, residency_device="host:0"
    )
    llm = OpenAiLlm(settings)
    try:
        await asyncio.to_thread(llm.take_turns)
        vllm.can_wake = False
        asking = asyncio.create_task(llm.ask([{"role": "user", "content": "x"}], {}))
        assert await asyncio.to_thread(vllm.wake_failed.wait, 10)
        vllm.asleep, vllm.can_wake = False, True

        assert (await asking).text == "{}"
        assert vllm.answered_asleep == 0
        # It sleeps again for others, and wakes.
        await asyncio.to_thread(hold, node.owner("diffusion", sdxl=(60, Noted())), "sdxl")
        assert vllm.asleep
        assert (await llm.ask([{"role": "user", "content": "x"}], {})).text == "{}"
    finally:
        await asyncio.to_thread(llm.close)


def test_a_server_that_neither_wakes_nor_comes_back_is_named(vllm: Vllm) -> None:
    vllm.asleep, vllm.can_wake = True, False
    with pytest.raises(ServiceUnavailable, match="refused /wake_up"):
        VllmServer(vllm.url, 5, restart_wait_s=1).load("host:0")
    assert len(vllm.posts) > 1


def test_a_server_without_sleep_mode_is_named(vllm: Vllm) -> None:
    vllm.can_sleep = False
    with pytest.raises(ServiceUnavailable, match="--enable-sleep-mode"):
        VllmServer(vllm.url, 5).offload()
