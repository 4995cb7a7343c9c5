"""How calls end: cancelled, refused, too many, too late; over real gRPC."""

import asyncio
import struct
import time
import zlib

import grpc
import pytest

from narrative.errors import (
    DeadlineExceeded,
    ImageUndecodable,
    InvalidInput,
    InvalidParameter,
    ModelNotFound,
    PayloadTooLarge,
    QueueFull,
)
from narrative.runtime.channel import rpc_errors
from narrative.v1 import diffusion_pb2, diffusion_pb2_grpc

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
MANY_STEPS = 500
# A call that stops at its next step returns in far less than its 500 steps would take.
PROMPTLY_S = 5.0


def begin(channel, timeout_s=None, **fields):
    """Starts a call with many steps."""
    request = diffusion_pb2.GenerateImagesRequest(
        **{"prompt": "a red house", "seed": 7, "num_inference_steps": MANY_STEPS, **fields}
    )
    return diffusion_pb2_grpc.DiffusionServiceStub(channel).GenerateImages(request, timeout=timeout_s)


async def drain(call):
    """Reads a call to its end."""
    while await call.read() is not grpc.aio.EOF:
        pass


async def fill(channel, draw, at_most):
    """Asks until one is refused."""
    calls = [asyncio.ensure_future(draw(channel, seed=seed, num_inference_steps=1)) for seed in range(at_most)]
    try:
        await asyncio.gather(*calls)
    finally:
        for call in calls:
            call.cancel()


async def test_a_cancelled_call_stops_at_the_next_step(serve, draw):
    async with serve("sd", max_steps=MANY_STEPS, batch_window_ms=0) as channel:
        call = begin(channel)
        assert (await call.read()).step.step == 1
        call.cancel()
        started_s = time.monotonic()
        drawing = await draw(channel, num_inference_steps=1)
    # One drawing thread: the second picture came only because the first was given up.
    assert drawing.files
    assert time.monotonic() - started_s < PROMPTLY_S


async def test_cancelling_one_leaves_the_rest_of_the_batch_alone(serve, draw):
    async with serve("sd", max_steps=MANY_STEPS, batch_window_ms=500, max_batch_size=2) as channel:
        given_up = begin(channel, seed=1, num_inference_steps=60)
        kept = asyncio.create_task(draw(channel, seed=2, num_inference_steps=60))
        assert (await given_up.read()).step.step == 1
        given_up.cancel()
        drawing = await kept
        alone = await draw(channel, seed=2, num_inference_steps=60)
    assert drawing.last[0].batch_size == 2
    assert (drawing.pixels() == alone.pixels()).all()


async def test_a_deadline_stops_the_work_too(serve, draw):
    async with serve("sd", max_steps=MANY_STEPS, batch_window_ms=0) as channel:
        call = begin(channel, timeout_s=0.5)
        with rpc_errors("diffusion"), pytest.raises(grpc.aio.AioRpcError) as late:
            await drain(call)
        assert late.value.code() is DeadlineExceeded.grpc_code
        assert (await draw(channel, num_inference_steps=1)).files


async def test_a_full_queue_says_when_to_come_back(serve, draw):
    async with serve("sd", max_steps=MANY_STEPS, max_queue=2, batch_window_ms=0, max_batch_size=1) as channel:
        running = begin(channel)
        await running.read()
        with pytest.raises(QueueFull) as full:
            await fill(channel, draw, at_most=3)
        assert full.value.retry_after_s >= 1
        running.cancel()
        assert (await draw(channel, num_inference_steps=1)).files


async def test_a_client_that_goes_away_does_not_hold_up_the_stop(serve):
    started_s = None
    async with serve("sd", max_steps=MANY_STEPS, max_batch_size=1, drain_s=60.0) as channel:
        running = begin(channel)
        await running.read()
        waiting = begin(channel, seed=8)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < PROMPTLY_S
    for call in (running, waiting):
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await drain(call)


BAD = [
    ({"width": 63}, "width", "multiples of 8 from 64 to 128"),
    ({"height": 8}, "height", "multiples of 8"),
    ({"width": 4096}, "width", "multiples of 8"),
    ({"num_inference_steps": 151}, "num_inference_steps", "1 to 150"),
    ({"guidance_scale": float("nan")}, "guidance_scale", "0.0 to 30.0"),
    ({"guidance_scale": float("inf")}, "guidance_scale", "0.0 to 30.0"),
    ({"guidance_scale": -1.0}, "guidance_scale", "0.0 to 30.0"),
    ({"num_images": 9}, "num_images", "1 to 8"),
    ({"prompt": ""}, "prompt", "empty"),
    ({"prompt": " \n"}, "prompt", "empty"),
    ({"prompt": "a" * 100_000}, "prompt", "at most 4000"),
    ({"negative_prompt": "a" * 100_000}, "negative_prompt", "at most 4000"),
    ({"scheduler": "Magic"}, "scheduler", "DPMSolverMultistep"),
    ({"scheduler": "FlowMatchEulerDiscrete"}, "scheduler", "EulerDiscrete"),
    ({"model": "pix2pix"}, "model", "there are: sd"),
]


async def test_bad_requests_are_refused_at_once_with_their_field(serve, draw):
    async with serve("sd", "pix2pix") as channel:
        for fields, name, said in BAD:
            started_s = time.monotonic()
            with pytest.raises(InvalidParameter, match=said) as refused:
                await draw(channel, **fields)
            assert refused.value.field == name, fields
            assert time.monotonic() - started_s < 1, fields
        with pytest.raises(ModelNotFound, match="there are sd, pix2pix"):
            await draw(channel, model="dall-e")


async def test_bad_pictures_are_refused(serve, edit, picture_file):
    bomb = _png_header_claiming(30_000, 30_000)
    async with serve("sd", "pix2pix", max_upload_bytes=50_000, max_upload_px=1_000_000) as channel:
        for source in (b"", b"not a picture", picture_file()[:60], picture_file(kind="GIF"), bomb):
            with pytest.raises((ImageUndecodable, InvalidParameter)) as refused:
                await edit(channel, source)
            assert refused.value.field == "image"
        with pytest.raises(PayloadTooLarge, match="50000 bytes"):
            await edit(channel, b"x" * 60_000)
        with pytest.raises(InvalidParameter, match="multiples of 8"):
            await edit(channel, picture_file(900, 30))
        with pytest.raises(InvalidParameter, match="image_guidance_scale"):
            await edit(channel, picture_file(), image_guidance_scale=float("nan"))
        with pytest.raises(InvalidParameter, match="not for image-editing"):
            await edit(channel, picture_file(), model="sd")
    async with serve("sd") as channel:
        with pytest.raises(ModelNotFound, match="no model for image-editing"):
            await edit(channel, picture_file())


async def test_an_edit_must_begin_with_its_options(serve):
    async with serve("pix2pix") as channel:
        stub = diffusion_pb2_grpc.DiffusionServiceStub(channel)
        chunk = diffusion_pb2.EditImagesRequest(chunk=b"x")
        options = diffusion_pb2.EditImagesRequest(
            options=diffusion_pb2.EditOptions(generation=diffusion_pb2.GenerateImagesRequest(prompt="red"))
        )
        for messages in ([], [chunk], [options, options]):
            with rpc_errors("diffusion"), pytest.raises(grpc.aio.AioRpcError) as refused:
                async for _ in stub.EditImages(iter(messages)):
                    pass
            assert refused.value.code() is InvalidInput.grpc_code


def _png_header_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
