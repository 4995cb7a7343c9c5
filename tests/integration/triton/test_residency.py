"""A model on a real Triton server takes turns: loaded under a lease, unloaded when somebody else needs the room."""

from __future__ import annotations

import asyncio

import pytest

from services.diffusion.__main__ import make_engine
from services.diffusion.engine import Image, ImageRequest
from services.diffusion.settings import DiffusionSettings
from services.residency.settings import ResidencySettings
from tests.integration.residency.residency_node import Node, Noted, hold
from tests.integration.triton.triton_server import TritonServer

pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


async def test_triton_unloads_a_model_for_others_and_loads_it_for_a_picture(triton: TritonServer) -> None:
    node = Node(ResidencySettings(port=0, devices={"host:0": 100}, min_resident_s=0.0, grace_s=0.5, drain_s=0.1))
    await node.start()
    engine = make_engine(
        DiffusionSettings(
            engine="triton",
            triton_url=triton.url,
            triton_bytes=70,
            triton_device="host:0",
            residency_target=node.target,
        )
    )

    def draw() -> bytes:
        events = engine.generate(ImageRequest("a red fox in a forest", seed=7, num_steps=2))
        return next(event.png for event in events if isinstance(event, Image))

    try:
        await asyncio.to_thread(engine.load)
        assert triton.states()["diffusion"] != "READY"
        whisper = node.owner("asr", whisper=(60, Noted()))
        pictures = []
        for _ in range(2):
            pictures.append(await asyncio.to_thread(draw))
            assert triton.states()["diffusion"] == "READY"
            await asyncio.to_thread(hold, whisper, "whisper")
            assert triton.states()["diffusion"] == "UNAVAILABLE"
    finally:
        await asyncio.to_thread(engine.close)
        for client in node.clients:
            await asyncio.to_thread(client.close)
        await node.stop()
    assert pictures[0] == pictures[1]
