"""SDXL in float16 decodes in float32: whatever happens in between, the next picture is as if it had not."""

import asyncio
import dataclasses
import queue

import pytest
import torch
from diffusers import AutoencoderKL

from narrative.errors import Cancelled, OutOfMemory
from narrative.runtime.server import ServiceServer
from services.diffusion.engine import Event, Finished, Image, ImageRequest, Step, Ticket
from services.diffusion.engine_diffusers import DiffusersEngine
from services.diffusion.settings import DiffusionSettings
from services.residency.__main__ import make_service as make_residency
from services.residency.settings import ResidencySettings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
REQUEST = ImageRequest("a red house", model="sdxl", seed=7, num_steps=3)


@pytest.fixture(params=["alone", "by turns"])
async def turns(request):
    """Settings of an engine that has a device to itself, or takes turns on one that holds one model."""
    if request.param == "alone":
        yield {}
        return
    settings = ResidencySettings(port=0, devices={"host:0": "100MiB"}, recovery_s=0.0, min_resident_s=0.0, drain_s=0.1)
    server = ServiceServer(make_residency(settings), settings)
    target = f"127.0.0.1:{await server.start()}"
    await server.load()
    yield {"residency_target": target, "residency_working_bytes": "60MiB"}
    await server.stop()


@pytest.fixture
async def engine(turns, tiny, tmp_path):
    """A loaded engine on the tiny SDXL and the tiny SD."""
    settings = DiffusionSettings(
        models=[str(tiny / "sdxl"), str(tiny / "sd")],
        dtype="float16",
        num_threads=1,
        adapters_dir=tmp_path / "copies",
        object_store_url=str(tmp_path / "objects"),
        **turns,
    )
    engine = DiffusersEngine(settings)
    await asyncio.to_thread(engine.load)
    yield engine
    await asyncio.to_thread(engine.close)


async def draw(engine: DiffusersEngine, model: str = "sdxl") -> bytes:
    """The file of the picture."""
    request = dataclasses.replace(REQUEST, model=model)
    events = await asyncio.to_thread(lambda: list(engine.generate(request)))
    (png,) = [event.png for event in events if isinstance(event, Image)]
    return png


async def three_pictures(engine: DiffusersEngine) -> list[bytes]:
    """A picture, another model's in between, and the first once more."""
    return [await draw(engine), await draw(engine, "sd"), await draw(engine)]


async def test_memory_that_runs_out_while_decoding_leaves_the_model_as_it_was(engine, monkeypatch):
    decode = AutoencoderKL._decode
    failures = {"left": 0}

    def full(self, *args, **kwargs):
        if failures["left"]:
            failures["left"] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(self, *args, **kwargs)

    monkeypatch.setattr(AutoencoderKL, "_decode", full)
    expected = await three_pictures(engine)
    failures["left"] = 1
    assert await three_pictures(engine) == expected, "tried once more"
    failures["left"] = 2
    with pytest.raises(OutOfMemory, match="no memory on cpu"):
        await draw(engine)
    assert await three_pictures(engine) == expected


async def test_a_call_that_is_cancelled_before_decoding_leaves_the_model_as_it_was(engine):
    expected = await three_pictures(engine)
    tickets: queue.SimpleQueue[Ticket] = queue.SimpleQueue()
    ended: queue.SimpleQueue[Finished] = queue.SimpleQueue()

    def emit(event: Event) -> None:
        if isinstance(event, Step) and event.step == event.num_steps:
            tickets.get().cancel()
        elif isinstance(event, Finished):
            ended.put(event)

    tickets.put(engine.submit(REQUEST, emit))
    assert isinstance((await asyncio.to_thread(ended.get, timeout=20)).error, Cancelled)
    assert await three_pictures(engine) == expected
