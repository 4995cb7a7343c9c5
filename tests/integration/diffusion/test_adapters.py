"""Adapters per request, on tiny random models: weights apart, swapped in between, refused where they do not fit."""

import asyncio
import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from narrative.errors import AdapterNotFound, InvalidParameter
from narrative.objects import Objects
from narrative.registry import ADAPTERS, Registry
from narrative.v1 import diffusion_pb2
from services.diffusion.adapters import WEIGHTS_NAME
from services.diffusion.png import read_parameters
from tests.integration.diffusion.conftest import publish

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def adapter(name, weight, text_encoder_weight=None):
    return diffusion_pb2.Adapter(name=name, weight=weight, text_encoder_weight=text_encoder_weight)


async def test_unet_and_text_encoder_weights_work_apart(serve, draw):
    async with serve("sd") as channel:

        async def pixels(*adapters):
            return (await draw(channel, adapters=adapters)).pixels()

        base = await pixels()
        both, unet_only, text_only, none = (
            await pixels(adapter("seal", 1.0)),
            await pixels(adapter("seal", 1.0, 0.0)),
            await pixels(adapter("seal", 0.0, 1.0)),
            await pixels(adapter("seal", 0.0, 0.0)),
        )
        half = await pixels(adapter("seal", 0.5))
        np.testing.assert_array_equal(none, base)
        np.testing.assert_array_equal(await pixels(adapter("seal", 1.0, 1.0)), both)
        np.testing.assert_array_equal(await pixels(), base)
    pictures = [base, both, unet_only, text_only, half]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


async def test_adapters_are_swapped_and_combined_from_request_to_request(serve, draw):
    async with serve("sd", max_loaded_adapters=1) as channel:
        seal = await draw(channel, adapters=[adapter("seal", 1.0)])
        mist = await draw(channel, adapters=[adapter("mist", 1.0)])
        seal_again = await draw(channel, adapters=[adapter("seal", 1.0)])
        two = await draw(channel, adapters=[adapter("mist", 0.7), adapter("seal", 0.3)])
        two_swapped = await draw(channel, adapters=[adapter("seal", 0.3), adapter("mist", 0.7)])
    assert (seal.pixels() != mist.pixels()).any()
    np.testing.assert_array_equal(seal.pixels(), seal_again.pixels())
    assert (two.pixels() != seal.pixels()).any()
    np.testing.assert_array_equal(two.pixels(), two_swapped.pixels())
    assert read_parameters(two.files[0])["adapters"] == [
        {"name": "mist", "weight": 0.7, "text_encoder_weight": 0.7},
        {"name": "seal", "weight": 0.3, "text_encoder_weight": 0.3},
    ]


async def test_only_requests_with_the_same_adapters_are_drawn_together(serve, draw):
    async with serve("sd", batch_window_ms=1000.0, max_batch_size=2) as channel:
        drawn = await asyncio.gather(
            *(draw(channel, adapters=[adapter(name, 1.0)], seed=seed) for seed in (1, 2) for name in ("seal", "mist"))
        )
        alone = await draw(channel, adapters=[adapter("mist", 1.0)], seed=2)
    assert [one.last[0].batch_size for one in drawn] == [2, 2, 2, 2]
    np.testing.assert_array_equal(drawn[3].pixels(), alone.pixels())


async def test_an_adapter_is_there_when_it_is_published_and_gone_when_it_is_deleted(serve, draw, adapters, store):
    async with serve("sd") as channel:
        await asyncio.to_thread(publish, store, "changing", adapters / "seal")
        before = await draw(channel, adapters=[adapter("changing", 1.0)])
        await asyncio.to_thread(publish, store, "changing", adapters / "mist")
        after = await draw(channel, adapters=[adapter("changing", 1.0)])
        mist = await draw(channel, adapters=[adapter("mist", 1.0)])
        await Registry(Objects(str(store)), ADAPTERS).delete("changing")
        with pytest.raises(AdapterNotFound):
            await draw(channel, adapters=[adapter("changing", 1.0)])
    assert (before.pixels() != after.pixels()).any()
    np.testing.assert_array_equal(after.pixels(), mist.pixels())


async def test_replicas_draw_with_what_is_in_the_object_store(serve, draw, tmp_path):
    asked = {"adapters": [adapter("seal", 1.0)]}
    async with serve("sd", adapters_dir=tmp_path / "one") as one, serve("sd", adapters_dir=tmp_path / "two") as two:
        np.testing.assert_array_equal((await draw(one, **asked)).pixels(), (await draw(two, **asked)).pixels())


async def test_an_adapter_for_sdxl_works_there(serve, draw):
    async with serve("sdxl") as channel:
        base = await draw(channel, num_inference_steps=2)
        giant = await draw(channel, num_inference_steps=2, adapters=[adapter("giant", 1.0)])
    assert (base.pixels() != giant.pixels()).any()


async def test_adapters_that_cannot_be_used_are_refused_by_name(serve, draw):
    async with serve("sd") as channel:
        with pytest.raises(AdapterNotFound, match=r"there are: .*mist.*seal") as missing:
            await draw(channel, adapters=[adapter("nobody", 1.0)])
        assert missing.value.field == "adapters"
        with pytest.raises(InvalidParameter, match="does not fit model 'sd'"):
            await draw(channel, adapters=[adapter("giant", 1.0)])
        for name in ("../seal", "/etc/passwd", "seal/..", "", "a" * 65, "seal\0"):
            with pytest.raises(InvalidParameter, match="is not a name"):
                await draw(channel, adapters=[adapter(name, 1.0)])
        for weight in (float("nan"), float("inf"), 100.0):
            with pytest.raises(InvalidParameter, match="weight"):
                await draw(channel, adapters=[adapter("seal", weight)])
        with pytest.raises(InvalidParameter, match="twice"):
            await draw(channel, adapters=[adapter("seal", 1.0), adapter("seal", 0.5)])


async def test_dropout_ends_with_the_training(serve, draw, adapters, store, tmp_path):
    weights = load_file(adapters / "seal" / WEIGHTS_NAME)
    config = {
        f"{part}.{key}": value
        for part, targets in (("unet", ["to_q", "to_v"]), ("text_encoder", ["q_proj", "v_proj"]))
        for key, value in {"r": 2, "lora_alpha": 8, "lora_dropout": 0.5, "target_modules": targets}.items()
    }
    save_file(weights, tmp_path / WEIGHTS_NAME, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(config)})
    await asyncio.to_thread(publish, store, "dropping", tmp_path)
    async with serve("sd") as channel:
        first, second = [await draw(channel, adapters=[adapter("dropping", 1.0)]) for _ in range(2)]
    await Registry(Objects(str(store)), ADAPTERS).delete("dropping")
    np.testing.assert_array_equal(first.pixels(), second.pixels())
