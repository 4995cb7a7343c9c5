"""A picture that waits for its model's memory, and those who wait behind it."""

import asyncio
import threading

import pytest

from services.diffusion.engine import Event, Image, ImageRequest, Ticket
from services.diffusion.engine_diffusers import DiffusersEngine
from services.diffusion.settings import DiffusionSettings
from services.residency.settings import ResidencySettings
from tests.integration.residency.residency_node import Holding, Node, Noted

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
MIB = 1 << 20


async def test_who_gives_up_waiting_for_memory_holds_up_nobody(tiny, tmp_path):
    node = Node(ResidencySettings(port=0, devices={"host:0": 100 * MIB}, recovery_s=0.0, min_resident_s=0.0))
    await node.start()
    settings = DiffusionSettings(
        models=[str(tiny / "sd"), str(tiny / "sdxl")],
        adapters_dir=tmp_path / "copies",
        object_store_url=str(tmp_path / "objects"),
        residency_target=node.target,
        residency_working_bytes="60MiB",
        batch_window_ms=300.0,
    )
    engine = DiffusersEngine(settings)
    await asyncio.to_thread(engine.load)
    drawn = threading.Event()

    def submit(model: str) -> Ticket:
        def emit(event: Event) -> None:
            if isinstance(event, Image):
                drawn.set()

        return engine.submit(ImageRequest("a red house", model=model, seed=7, num_steps=1), emit)

    holding = Holding(node.owner("asr", whisper=(90 * MIB, Noted())), "whisper")
    try:
        worker = asyncio.create_task(asyncio.to_thread(holding.run))
        await asyncio.to_thread(holding.held.wait, 10)
        tickets = [submit("sdxl"), submit("sdxl")]
        submit("sd")
        await node.until(lambda state: [one.model for one in state.waiting] == ["sdxl"])
        tickets[0].cancel()
        assert [one.model for one in (await node.state()).waiting] == ["sdxl"], "somebody still waits for the other"
        tickets[1].cancel()
        await node.until(lambda state: [one.model for one in state.waiting] == ["sd"])
        holding.enough.set()
        await worker
        assert await asyncio.to_thread(drawn.wait, 20)
    finally:
        holding.enough.set()
        await asyncio.to_thread(engine.close)
        for client in node.clients:
            await asyncio.to_thread(client.close)
        await node.stop()
