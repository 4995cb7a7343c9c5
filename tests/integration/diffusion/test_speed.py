"""What makes drawing fast and lean, and that it does not change a picture."""

import asyncio
import gc

import numpy as np
import pytest
import torch
import transformers
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict

from narrative.errors import InvalidParameter, OutOfMemory
from narrative.runtime.server import ServiceServer
from narrative.v1 import diffusion_pb2
from services.residency.__main__ import make_service as make_residency
from services.residency.settings import ResidencySettings
from tests.integration.diffusion.conftest import publish

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TEXT_MODELS = ("sd", "sdxl", "flux")


def adapter(name, weight, text_encoder_weight=None):
    return diffusion_pb2.Adapter(name=name, weight=weight, text_encoder_weight=text_encoder_weight)


@pytest.fixture
def calls(monkeypatch):
    """Batch sizes of the calls of every network class whose forward is watched."""
    seen = []

    def watch(cls):
        forward = cls.forward

        def watched(self, *args, **kwargs):
            first = args[0] if args else kwargs.get("hidden_states", kwargs.get("input_ids"))
            seen.append(first.shape[0])
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(cls, "forward", watched)
        return seen

    return watch


@pytest.mark.parametrize("model", TEXT_MODELS)
async def test_a_prompt_is_encoded_once_and_its_pictures_stay_the_same(serve, draw, calls, model):
    encoded = calls(transformers.CLIPTextModelWithProjection if model == "sdxl" else transformers.CLIPTextModel)
    asked = [{"seed": 1}, {"seed": 2}, {"seed": 1, "prompt": "cat"}, {"seed": 1}, {"seed": 1, "negative_prompt": "cat"}]
    pictures = {}
    for kept in ("64MiB", "0"):
        async with serve(model, text_cache_bytes=kept) as channel:
            pictures[kept] = []
            for fields in asked:
                before = len(encoded)
                pictures[kept].append((await draw(channel, num_inference_steps=1, **fields)).pixels())
                if fields == {"seed": 2} or len(pictures[kept]) == 4:
                    assert (len(encoded) == before) == (kept != "0"), fields
    np.testing.assert_array_equal(pictures["64MiB"], pictures["0"])


async def test_embeddings_of_other_text_encoder_adapters_are_not_taken(serve, draw):
    sets = [
        [],
        [adapter("seal", 1.0)],
        [adapter("seal", 1.0, 0.5)],
        [adapter("seal", 1.0, 0.0)],
        [adapter("mist", 1.0)],
        [],
        [adapter("seal", 1.0)],
    ]
    pictures = {}
    for kept in ("64MiB", "0"):
        async with serve("sd", text_cache_bytes=kept) as channel:
            pictures[kept] = [(await draw(channel, adapters=adapters)).pixels() for adapters in sets]
    np.testing.assert_array_equal(pictures["64MiB"], pictures["0"])
    assert len({picture.tobytes() for picture in pictures["0"]}) == 5


@pytest.mark.parametrize(("model", "rows"), [("sd", 2), ("sdxl", 2), ("pix2pix", 3)])
async def test_the_branches_of_guidance_share_a_call(serve, draw, edit, picture_file, calls, model, rows):
    seen = calls(UNet2DConditionModel)
    async with serve(model) as channel:
        seen.clear()
        if model == "pix2pix":
            await edit(channel, picture_file(), num_inference_steps=2)
        else:
            await draw(channel, num_inference_steps=2, scheduler="DDIM")
    assert seen == [rows, rows]


@pytest.mark.parametrize(("model", "tokens"), [("sd", 16 * 16), ("sdxl", 16 * 16), ("flux", 512 + 16 * 16)])
async def test_attention_is_fused(serve, draw, monkeypatch, model, tokens):
    fused = torch.nn.functional.scaled_dot_product_attention
    lengths = []

    def noted(query, key, value, **options):
        lengths.append(query.shape[-2])
        return fused(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    async with serve(model) as channel:
        lengths.clear()
        await draw(channel, num_inference_steps=3)
    assert lengths.count(77) > 0, "the text encoder's"
    assert lengths.count(tokens) >= 3, "the denoiser's, in every step"


async def test_tiles_and_slices_only_where_they_are_needed(serve, draw, monkeypatch):
    tiled, decoded = [], []
    tiled_decode, decode = AutoencoderKL.tiled_decode, AutoencoderKL._decode
    monkeypatch.setattr(
        AutoencoderKL, "tiled_decode", lambda self, z, **options: tiled.append(1) or tiled_decode(self, z, **options)
    )
    monkeypatch.setattr(
        AutoencoderKL, "_decode", lambda self, z, **options: decoded.append(len(z)) or decode(self, z, **options)
    )
    options = {"pictures_per_call": 0, "batch_window_ms": 300.0, "max_batch_size": 2, "vae_tiling_px": 2 * 64 * 64}
    async with serve("sd", **options) as channel:
        decoded.clear()
        await draw(channel, num_images=2)
        await draw(channel, num_images=2, width=72)
        assert (tiled, decoded) == ([], [2, 1, 1])
        await draw(channel, width=128, height=128)
        assert tiled


async def test_short_memory_is_compacted_and_tried_once_more(serve, draw, monkeypatch):
    forward = UNet2DConditionModel.forward
    failures = {"left": 0}
    collected = []

    def full(self, *args, **kwargs):
        if failures["left"]:
            failures["left"] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", full)
    monkeypatch.setattr(gc, "collect", lambda: collected.append(failures["left"]) or 0)
    async with serve("sd") as channel:
        expected = await draw(channel)
        failures["left"] = 1
        again = await draw(channel)
        assert collected == [0]
        np.testing.assert_array_equal(again.pixels(), expected.pixels())
        assert again.steps == expected.steps
        failures["left"] = 2
        with pytest.raises(OutOfMemory, match="no memory on cpu"):
            await draw(channel)
        np.testing.assert_array_equal((await draw(channel)).pixels(), expected.pixels())


@pytest.fixture
def uncompiled(monkeypatch):
    """Everything that is done for a compiled denoiser, but for compiling it."""
    monkeypatch.setattr("services.diffusion.pipelines.compiled", lambda call, backend: call)


SETS = (
    [],
    [adapter("seal", 0.1)],
    [adapter("mist", 0.05)],
    [adapter("mist", 0.07), adapter("seal", -0.03)],
    [adapter("seal", 0.1, 0.0)],
    [],
    [adapter("seal", 0.1)],
)


@pytest.mark.parametrize("rank", [32, 1], ids=["room for all", "room that has to grow"])
async def test_swapped_adapters_draw_what_loaded_ones_do(serve, draw, uncompiled, rank):
    pictures = {}
    for compiled in (False, True):
        async with serve("sd", compile=compiled, adapter_slot_rank=rank) as channel:
            pictures[compiled] = [(await draw(channel, adapters=adapters)).pixels() for adapters in SETS]
    assert np.abs(np.subtract(pictures[False], pictures[True], dtype=int)).max() <= 1
    np.testing.assert_array_equal(pictures[True][1], pictures[True][6])
    assert len({picture.tobytes() for picture in pictures[True]}) == 5


async def test_swapped_adapters_come_back_with_the_model_they_were_swapped_into(serve, draw, uncompiled):
    """The slot is written over in place on the device; the copy that the next turn brings back has to know."""
    settings = ResidencySettings(port=0, devices={"host:0": "100MiB"}, recovery_s=0.0, min_resident_s=0.0, drain_s=0.1)
    server = ServiceServer(make_residency(settings), settings)
    target = f"127.0.0.1:{await server.start()}"
    await server.load()
    turns = {"residency_target": target, "residency_working_bytes": "60MiB"}
    pictures = {}
    for options in ({}, turns):
        async with serve("sd", "sdxl", compile=True, **options) as channel:
            pictures[bool(options)] = []
            for adapters in ([adapter("seal", 1.0)], [adapter("seal", 1.0)], [], []):
                pictures[bool(options)].append((await draw(channel, adapters=adapters)).pixels())
                await draw(channel, model="sdxl", num_inference_steps=1)
    await server.stop()
    np.testing.assert_array_equal(pictures[True], pictures[False])


async def test_an_adapter_that_no_slot_can_hold_is_refused(serve, draw, tiny, store, uncompiled):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny / "sd", safety_checker=None)
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], use_dora=True))
    folder = store.parent / "dora"
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(pipeline.unet))
    await asyncio.to_thread(publish, store, "dora", folder)
    async with serve("sd", compile=True) as channel:
        for _ in range(2):
            with pytest.raises(InvalidParameter, match="only plain LoRA"):
                await draw(channel, adapters=[adapter("dora", 1.0)], num_inference_steps=1)
