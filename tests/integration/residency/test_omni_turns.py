"""A vLLM-Omni server sleeps while others work; its documented endpoints are played by a small server."""

from __future__ import annotations

import asyncio

import pytest

from narrative.errors import ServiceUnavailable
from narrative.runtime.residency import ResidencyClient
from narrative.runtime.server_leases import ServerLeases
from services.diffusion.engine import Image, ImageRequest, Step
from services.diffusion.engine_omni import OmniEngine
from services.diffusion.omni_sleep import OmniServer
from services.diffusion.settings import DiffusionSettings
from tests.integration.diffusion.omni_server import FakeOmniServer
from tests.integration.residency.residency_node import Node, Noted, hold


async def test_the_picture_server_sleeps_while_others_work_and_wakes_for_a_picture(node: Node) -> None:
    omni = FakeOmniServer()
    server = await asyncio.start_server(omni.serve, "127.0.0.1", 0)
    async with server:
        settings = DiffusionSettings(
            engine="vllm-omni",
            omni_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1",
            omni_bytes=70,
            omni_device="host:0",
            residency_target=node.target,
        )
        engine = OmniEngine(settings)

        def draw() -> list[Step | Image]:
            return list(engine.generate(ImageRequest("a red house", seed=1, num_images=2)))

        try:
            await asyncio.to_thread(engine.load)
            assert omni.asleep
            whisper = node.owner("asr", whisper=(60, Noted()))
            for _ in range(2):
                pictures = await asyncio.gather(asyncio.to_thread(draw), asyncio.to_thread(draw))
                assert [len(one) for one in pictures] == [2, 2]
                assert not omni.asleep
                await asyncio.to_thread(hold, whisper, "whisper")
                assert omni.asleep
        finally:
            await asyncio.to_thread(engine.close)
    assert omni.drawn_asleep == 0
    sleep = ("/v1/omni/sleep", {"stage_ids": [0], "level": 1})
    assert omni.told == [sleep] + [("/v1/omni/wakeup", {"stage_ids": [0]}), sleep] * 2


async def test_a_picture_server_that_does_not_wake_is_waited_for_until_it_was_restarted(node: Node) -> None:
    omni = FakeOmniServer()
    server = await asyncio.start_server(omni.serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        leases = ServerLeases(
            OmniServer(url, "", 5), "qwen", 70, "host:0", ResidencyClient(node.target, "omni", 10), 1, restart_wait_s=30
        )
        await asyncio.to_thread(leases.start)
        omni.can_sleep = False

        async def work() -> None:
            async with leases.lease():
                assert not omni.asleep

        working = asyncio.create_task(work())
        while len(omni.told) < 2:
            await asyncio.sleep(0.01)
        assert not working.done()
        omni.asleep, omni.can_sleep = False, True
        await working
        await asyncio.to_thread(leases.close)


async def test_a_picture_server_without_sleep_mode_is_named() -> None:
    omni = FakeOmniServer()
    omni.can_sleep = False
    server = await asyncio.start_server(omni.serve, "127.0.0.1", 0)
    async with server:
        movable = OmniServer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "", 5)
        with pytest.raises(ServiceUnavailable, match="failed at sleep; start it with --enable-sleep-mode"):
            await asyncio.to_thread(movable.offload)
