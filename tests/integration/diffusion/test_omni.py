"""The vLLM-Omni engine over real gRPC and HTTP, in front of a server that plays the documented endpoints."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import PIL.Image
import pytest

from narrative.errors import (
    DeadlineExceeded,
    InvalidInput,
    InvalidParameter,
    ModelNotFound,
    ModelOutputInvalid,
    NarrativeError,
    OutOfMemory,
    QueueFull,
    ResourceExhausted,
    ServiceUnavailable,
)
from narrative.runtime.channel import open_channel, rpc_errors
from narrative.runtime.server import ServiceServer
from narrative.v1 import common_pb2, common_pb2_grpc, diffusion_pb2, diffusion_pb2_grpc
from services.diffusion.__main__ import make_service
from services.diffusion.engine import ImageRequest
from services.diffusion.engine_omni import OmniEngine
from services.diffusion.png import read_parameters
from services.diffusion.settings import DiffusionSettings
from tests.integration.diffusion.omni_server import MODEL, FakeOmniServer


@pytest.fixture
async def omni() -> AsyncIterator[FakeOmniServer]:
    fake = FakeOmniServer()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    async with server:
        fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        yield fake


@asynccontextmanager
async def engine_on(omni: FakeOmniServer, **settings: Any) -> AsyncIterator[grpc.aio.Channel]:
    chosen = DiffusionSettings(engine="vllm-omni", omni_url=omni.url, port=0, drain_s=0.5, **settings)
    server = ServiceServer(make_service(chosen), chosen)
    port = await server.start()
    try:
        await server.load()
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop()


async def test_pictures_are_drawn_with_the_settings_of_the_request(omni: FakeOmniServer, draw: Any) -> None:
    async with engine_on(omni, omni_guidance="true_cfg_scale") as channel:
        first = await draw(
            channel,
            num_images=3,
            num_inference_steps=20,
            guidance_scale=4.0,
            width=96,
            height=64,
            negative_prompt="fog",
        )
        again = await draw(channel, seed=8, width=96, height=64)
    asked = {"model": MODEL, "prompt": "a red house", "n": 1, "size": "96x64", "response_format": "b64_json"}
    more = {"num_inference_steps": 20, "true_cfg_scale": 4.0, "negative_prompt": "fog"}
    assert sorted(omni.requests[:3], key=lambda one: one["seed"]) == [{**asked, **more, "seed": i} for i in (7, 8, 9)]
    assert omni.requests[3] == {**asked, "seed": 8}
    assert first.steps == []
    assert [first.last[i].seed for i in range(3)] == [7, 8, 9]
    assert {(chunk.width, chunk.height) for chunk in first.last.values()} == {(96, 64)}
    assert (first.pixels(1) == again.pixels()).all()
    parameters = read_parameters(first.files[2])
    assert parameters == {
        "engine": "vllm-omni",
        **more,
        **{k: asked[k] for k in ("model", "prompt", "n", "size")},
        "seed": 9,
    }


async def test_what_a_request_leaves_open_is_left_to_the_server(omni: FakeOmniServer, draw: Any) -> None:
    async with engine_on(omni) as channel:
        drawn = await draw(channel)
        listed = await common_pb2_grpc.ModelServiceStub(channel).ListModels(common_pb2.ListModelsRequest())
    assert set(omni.requests[0]) == {"model", "prompt", "n", "seed", "response_format"}
    assert (drawn.last[0].width, drawn.last[0].height) == (64, 64)
    (model,) = listed.models
    assert (model.id, model.engine, model.task) == (MODEL, "vllm-omni", common_pb2.TASK_TEXT_TO_IMAGE)


async def test_a_picture_is_edited(omni: FakeOmniServer, edit: Any, picture_file: Any) -> None:
    async with engine_on(omni, omni_task="image-editing") as channel:
        await edit(channel, picture_file(40, 24, "JPEG"), num_inference_steps=5)
        with pytest.raises(InvalidParameter, match="is for image-editing, not for text-to-image"), rpc_errors("d"):
            await diffusion_pb2_grpc.DiffusionServiceStub(channel).CheckImages(
                diffusion_pb2.CheckImagesRequest(generation=diffusion_pb2.GenerateImagesRequest(prompt="a red house"))
            )
    (asked,) = omni.requests
    sent = asked.pop("image")
    assert asked == {
        "model": MODEL, "prompt": "make it red", "n": "1", "seed": "7", "num_inference_steps": "5",
        "response_format": "b64_json", "output_format": "png",
    }  # fmt: skip
    with PIL.Image.open(io.BytesIO(sent)) as source:
        assert (source.format, source.size) == ("PNG", (40, 24))


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"adapters": [diffusion_pb2.Adapter(name="seal", weight=1)]}, InvalidParameter, "draws without adapters"),
        ({"scheduler": "DDIM"}, InvalidParameter, "takes no scheduler"),
        ({"model": "sdxl-base"}, ModelNotFound, f"no model 'sdxl-base'; there is {MODEL}"),
        ({"prompt": " "}, InvalidParameter, "the prompt is empty"),
        ({"width": 72, "height": 64}, InvalidParameter, "width is 72; multiples of 16 from 64 to 2048"),
        ({"width": 64}, InvalidParameter, "height is 0; .* width and height both or neither"),
        ({"num_inference_steps": 151}, InvalidParameter, "num_inference_steps is 151; 1 to 150"),
        ({"guidance_scale": 20.5}, InvalidParameter, r"guidance_scale is 20.5; 0.0 to 20.0"),
        ({"num_images": 9}, InvalidParameter, "num_images is 9; 1 to 8"),
        ({"seed": 2**63}, InvalidParameter, f"seed is {2**63}; 0 to {2**63 - 1}"),
    ],
)
async def test_what_cannot_be_had_is_refused_before_the_server_is_asked(
    fields: dict[str, Any], error: type[NarrativeError], said: str, omni: FakeOmniServer, draw: Any
) -> None:
    async with engine_on(omni) as channel:
        with pytest.raises(error, match=said):
            await draw(channel, **fields)
    assert omni.requests == []


async def test_adapters_are_neither_taken_in_nor_given_out(omni: FakeOmniServer) -> None:
    async with engine_on(omni) as channel:
        stub = diffusion_pb2_grpc.DiffusionServiceStub(channel)
        with pytest.raises(InvalidParameter, match="engine diffusers takes them"), rpc_errors("diffusion"):
            await stub.ImportAdapter(diffusion_pb2.ImportAdapterRequest(name="seal", object="seal.safetensors"))
        with pytest.raises(InvalidParameter, match="engine diffusers takes them"), rpc_errors("diffusion"):
            await stub.ExportAdapter(
                diffusion_pb2.ExportAdapterRequest(name="seal", form=diffusion_pb2.ADAPTER_FORM_KOHYA)
            )


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (400, {"detail": "Requested image size 2048x2048 exceeds the maximum"}, InvalidInput, "2048x2048 exceeds"),
        (
            422,
            {"detail": [{"loc": ["body", "seed"], "msg": "too big", "type": "x"}]},
            InvalidInput,
            "body.seed: too big",
        ),
        (400, {"detail": "Model mismatch: request specifies 'a'"}, ServiceUnavailable, "Model mismatch"),
        (503, {"detail": "Diffusion engine not initialized."}, ServiceUnavailable, "not initialized"),
        (500, {"detail": "Image generation failed: CUDA out of memory."}, OutOfMemory, "no room for a picture"),
        (500, {"error": {"message": "engine is dead"}}, ServiceUnavailable, "engine is dead"),
        (429, {"detail": "slow down"}, ResourceExhausted, "slow down"),
        (404, {"detail": "Not Found"}, ServiceUnavailable, "answered 404"),
        (200, {"data": []}, ModelOutputInvalid, "does not speak"),
        (200, {"data": [{"b64_json": None}]}, ModelOutputInvalid, "does not speak"),
        (200, {"data": [{"b64_json": "bm90aGluZw=="}]}, ModelOutputInvalid, "no picture"),
        (200, ["nonsense"], ModelOutputInvalid, "does not speak"),
    ],
)
async def test_failures_of_the_server_are_told_apart(
    status: int, body: Any, error: type[NarrativeError], said: str, omni: FakeOmniServer, draw: Any
) -> None:
    omni.refusal = (status, body)
    async with engine_on(omni) as channel:
        with pytest.raises(error, match=said) as caught:
            await draw(channel)
        omni.refusal = None
        assert (await draw(channel)).files
    assert type(caught.value) is error


async def test_a_server_that_hangs_is_given_up(omni: FakeOmniServer, draw: Any) -> None:
    omni.go.clear()
    async with engine_on(omni, omni_timeout_s=0.3) as channel:
        with pytest.raises(DeadlineExceeded, match=r"did not answer within 0.3 s"):
            await draw(channel)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_cancelled_call_hangs_up_and_its_place_is_free(omni: FakeOmniServer, draw: Any) -> None:
    omni.go.clear()
    async with engine_on(omni, omni_max_concurrency=2) as channel:
        request = diffusion_pb2.GenerateImagesRequest(prompt="a red house", num_images=3)
        call = diffusion_pb2_grpc.DiffusionServiceStub(channel).GenerateImages(request)
        reading = asyncio.ensure_future(call.read())
        await until(lambda: omni.working == 2)
        call.cancel()
        await asyncio.wait([reading])
        await until(lambda: omni.hung_up == 2)
        omni.go.set()
        assert len((await draw(channel, num_images=3)).files) == 3
    assert len(omni.requests) == 5
    assert omni.most_working == 2


async def test_one_picture_too_many_is_turned_away(omni: FakeOmniServer, draw: Any) -> None:
    omni.go.clear()
    async with engine_on(omni, omni_max_concurrency=1, max_queue=2) as channel:
        first = asyncio.create_task(draw(channel, num_images=3))
        await until(lambda: omni.working == 1)
        with pytest.raises(QueueFull, match="2 pictures wait already, and at most 2 may") as caught:
            await draw(channel)
        omni.go.set()
        assert len((await first).files) == 3
        assert len((await draw(channel)).files) == 1
    assert caught.value.retry_after_s >= 1


async def test_stopping_fails_what_runs(omni: FakeOmniServer, draw: Any) -> None:
    omni.go.clear()
    settings = DiffusionSettings(engine="vllm-omni", omni_url=omni.url)
    engine = OmniEngine(settings)
    await asyncio.to_thread(engine.load)
    drawing = asyncio.create_task(asyncio.to_thread(lambda: list(engine.generate(ImageRequest("a red house")))))
    await until(lambda: omni.working == 1)
    await asyncio.to_thread(engine.close)
    with pytest.raises(ServiceUnavailable, match="stopped"):
        await drawing


async def test_another_model_at_the_server_is_said_at_start(omni: FakeOmniServer) -> None:
    with pytest.raises(ServiceUnavailable, match=f"serves {MODEL}, not 'FLUX'; set NARRATIVE_DIFFUSION__OMNI_MODEL"):
        async with engine_on(omni, omni_model="FLUX"):
            pass


async def test_a_server_that_does_not_come_is_named(omni: FakeOmniServer) -> None:
    omni.url = "http://127.0.0.1:9/v1"
    with pytest.raises(ServiceUnavailable, match=r"vLLM-Omni server did not become ready within 0.2 s") as refusal:
        async with engine_on(omni, omni_startup_wait_s=0.2):
            pass
    assert "127.0.0.1" in str(refusal.value)  # for the log
    assert "127.0.0.1" not in refusal.value.message
