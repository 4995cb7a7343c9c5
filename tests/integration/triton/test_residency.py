"""A model on a real Triton server takes turns: loaded under a lease, unloaded when somebody else needs the room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest

from services.diffusion.__main__ import make_engine
from services.diffusion.engine import Image, ImageRequest
from services.diffusion.settings import DiffusionSettings
from services.residency.settings import ResidencySettings
from services.translation.engine_triton import TritonEngine
from services.translation.settings import TranslationSettings
from tests.integration.residency.residency_node import Node, Noted, hold
from tests.integration.triton.triton_server import TritonServer

T = TypeVar("T")
pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A device with room for one of two models at a time."""
    node = Node(ResidencySettings(port=0, devices={"host:0": 100}, min_resident_s=0.0, grace_s=0.5, drain_s=0.1))
    await node.start()
    yield node
    for client in node.clients:
        await asyncio.to_thread(client.close)
    await node.stop()


def under_leases(server: TritonServer, node: Node) -> dict[str, Any]:
    """Settings of an engine that takes turns on that device."""
    return {
        "triton_url": server.url,
        "triton_bytes": 70,
        "triton_device": "host:0",
        "residency_target": node.target,
    }


async def take_turns(server: TritonServer, node: Node, model: str, work: Callable[[], T]) -> list[T]:
    """Has the model work, somebody else take the room, and so once more; what the work gave."""
    assert server.states()[model] != "READY"
    whisper = node.owner("asr", whisper=(60, Noted()))
    done = []
    for _ in range(2):
        done.append(await asyncio.to_thread(work))
        assert server.states()[model] == "READY"
        await asyncio.to_thread(hold, whisper, "whisper")
        assert server.states()[model] == "UNAVAILABLE"
    return done


async def test_triton_unloads_a_model_for_others_and_loads_it_for_a_picture(triton: TritonServer, node: Node) -> None:
    engine = make_engine(DiffusionSettings(engine="triton", **under_leases(triton, node)))

    def draw() -> bytes:
        events = engine.generate(ImageRequest("a red fox in a forest", seed=7, num_steps=2))
        return next(event.png for event in events if isinstance(event, Image))

    try:
        await asyncio.to_thread(engine.load)
        pictures = await take_turns(triton, node, "diffusion", draw)
    finally:
        await asyncio.to_thread(engine.close)
    assert pictures[0] == pictures[1]


async def test_a_translation_takes_turns_too_and_says_what_it_reads_before(triton: TritonServer, node: Node) -> None:
    engine = TritonEngine(TranslationSettings(**under_leases(triton, node)))
    try:
        await asyncio.to_thread(engine.load)
        assert (engine.info.sources, engine.info.targets) == (("ru",), ("en",))
        await asyncio.to_thread(triton.unload, "translation")
        texts = await take_turns(triton, node, "translation", lambda: engine.translate(["кошка"], "ru", "en"))
    finally:
        await asyncio.to_thread(engine.close)
    assert texts == [["A cat"], ["A cat"]]
