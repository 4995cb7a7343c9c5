"""LoRA files that were made elsewhere, in and out, on tiny random models."""

import asyncio
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save, save_file

from narrative.errors import (
    AdapterNotFound,
    Conflict,
    InvalidInput,
    InvalidParameter,
    ModelNotFound,
    NarrativeError,
    NotFound,
    PayloadTooLarge,
)
from narrative.objects import Objects
from narrative.registry import ADAPTERS, Registry
from narrative.runtime.channel import rpc_errors
from narrative.v1 import diffusion_pb2, diffusion_pb2_grpc
from services.diffusion.lora_file import Layer, write_diffusers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SD_LAYERS = {
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": (16, 16),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": (16, 16),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0": (16, 16),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (16, 16),
    "lora_te_text_model_encoder_layers_1_mlp_fc1": (16, 32),
}
SDXL_LAYERS = {
    "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_v": (16, 16),
    "lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_q": (16, 16),
    "lora_te1_text_model_encoder_layers_0_self_attn_v_proj": (16, 16),
    "lora_te2_text_model_encoder_layers_1_self_attn_out_proj": (16, 16),
}


def kohya_file(layers: dict[str, tuple[int, int]], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A file of ranks and alphas that differ, with random weights that are plain to see."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for number, (name, (inputs, outputs)) in enumerate(layers.items()):
        rank = 2 + number % 2
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, inputs, generator=generator).to(dtype)
        tensors[f"{name}.lora_up.weight"] = torch.randn(outputs, rank, generator=generator).to(dtype)
        tensors[f"{name}.alpha"] = torch.tensor(0.5 + number, dtype=torch.float32)
    return tensors


class Exchange:
    """Asks a server to import and export."""

    def __init__(self, channel: object, store: Path) -> None:
        self._stub, self._objects = diffusion_pb2_grpc.DiffusionServiceStub(channel), Objects(str(store))
        self.registry = Registry(self._objects, ADAPTERS)

    async def publish(self, name: str, content: bytes, **more: object) -> None:
        await self._objects.put("incoming/one", content)
        with rpc_errors("diffusion"):
            await self._stub.ImportAdapter(
                diffusion_pb2.ImportAdapterRequest(**{"name": name, "object": "incoming/one", **more})
            )

    async def kohya(self, name: str) -> dict[str, torch.Tensor]:
        return load(await self.kohya_file(name))

    async def kohya_file(self, name: str) -> bytes:
        request = diffusion_pb2.ExportAdapterRequest(name=name, form=diffusion_pb2.ADAPTER_FORM_KOHYA)
        with rpc_errors("diffusion"):
            answer = await self._stub.ExportAdapter(request)
        return await self._objects.get(answer.object)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("base", "layers"), [("sd", SD_LAYERS), ("sdxl", SDXL_LAYERS)])
async def test_a_kohya_file_comes_back_bit_for_bit(serve, store, base, layers, dtype):
    tensors, name = kohya_file(layers, dtype), f"{base}-{str(dtype)[6:]}"
    async with serve("sd", "sdxl") as channel:
        exchange = Exchange(channel, store)
        await exchange.publish(name, save(tensors), trigger_word="seal", licence="MIT")
        back = await exchange.kohya(name)
        described = (await exchange.registry.entry(name)).description
        await exchange.registry.delete(name)
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert back[key].dtype == tensor.dtype
        assert torch.equal(back[key], tensor), key
    assert (described["base"], described["trigger_word"], described["licence"]) == (base, "seal", "MIT")
    assert described["rank"] in (2, 3)


async def test_what_kohyas_trainer_noted_comes_back(serve, store):
    notes = {"ss_tag_frequency": '{"10_seal": {"a seal": 5}}', "modelspec.title": "тюлень", "ss_network_dim": "9"}
    async with serve("sd") as channel:
        exchange = Exchange(channel, store)
        await exchange.publish("noted", save(kohya_file(SD_LAYERS), {**notes, "format": "pt"}))
        content = await exchange.kohya_file("noted")
        await exchange.registry.delete("noted")
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    assert {name: header[name] for name in notes if name != "ss_network_dim"} == {
        "ss_tag_frequency": notes["ss_tag_frequency"],
        "modelspec.title": "тюлень",
    }
    # As the layers are, whatever was said of them.
    assert header["ss_network_dim"] in ("2", "3")
    assert "format" not in header


async def test_an_imported_file_draws_what_it_says(serve, draw, tiny, store, tmp_path):
    """The picture is that of a base into whose weights alpha / rank x up @ down was added by hand."""
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {key: 3 * value for key, value in kohya_file({name: (16, 16)}).items()}
    merged = tmp_path / "merged"
    await asyncio.to_thread(_merge, tiny / "sd", merged, tensors, name)
    async with serve("sd") as channel:
        exchange = Exchange(channel, store)
        await exchange.publish("by-hand", save(tensors))
        base = (await draw(channel)).pixels()
        with_adapter = (await draw(channel, adapters=[diffusion_pb2.Adapter(name="by-hand", weight=1.0)])).pixels()
        await exchange.registry.delete("by-hand")
    assert (base != with_adapter).any()
    async with serve(str(merged)) as channel:
        difference = np.abs((await draw(channel)).pixels().astype(int) - with_adapter.astype(int))
    assert difference.max() <= 1, "only the rounding of the sum may differ"


def _merge(base: Path, merged: Path, tensors: dict[str, torch.Tensor], name: str) -> None:
    shutil.copytree(base, merged)
    file = merged / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
    weights["mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"] += (
        tensors[f"{name}.alpha"] / len(down) * up @ down
    )
    save_file(weights, file, metadata={"format": "pt"})


async def test_what_diffusers_wrote_goes_out_and_comes_in_again(serve, draw, adapters, store, tmp_path):
    file = adapters / "seal" / "pytorch_lora_weights.safetensors"
    async with serve("sd") as channel:
        exchange = Exchange(channel, store)
        # Through kohya's form and in diffusers' own.
        kohya = await exchange.kohya("seal")
        await exchange.publish("seal-kohya", save(kohya))
        await exchange.publish("seal-copy", file.read_bytes())
        pictures = [
            (await draw(channel, adapters=[diffusion_pb2.Adapter(name=name, weight=1.0)])).pixels()
            for name in ("seal", "seal-kohya", "seal-copy")
        ]
        for name in ("seal-kohya", "seal-copy"):
            stored = tmp_path / name
            await exchange.registry.fetch(await exchange.registry.entry(name), stored)
            copy, original = load_file(stored / file.name), load_file(file)
            assert copy.keys() == original.keys()
            assert all(torch.equal(copy[key], original[key]) for key in copy)
            await exchange.registry.delete(name)
    np.testing.assert_array_equal(pictures[0], pictures[1])
    np.testing.assert_array_equal(pictures[0], pictures[2])


async def test_peft_s_own_form_needs_its_alpha(serve, store):
    module = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    content = save({f"{module}.lora_A.weight": torch.ones(2, 16), f"{module}.lora_B.weight": torch.ones(16, 2)})
    async with serve("sd") as channel:
        exchange = Exchange(channel, store)
        with pytest.raises(InvalidParameter, match=r"adapter_config\.json") as refused:
            await exchange.publish("peft-own", content)
        assert refused.value.field == "alpha"
        await exchange.publish("peft-own", content, alpha=8.0)
        entry = await exchange.registry.entry("peft-own")
        await exchange.registry.delete("peft-own")
    assert (entry.description["rank"], entry.description["alpha"]) == (2, 8.0)


def _wide() -> bytes:
    return save(kohya_file({"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": (320, 320)}))


def _with(key: str) -> bytes:
    return save({**kohya_file(SD_LAYERS), key: torch.zeros(2, 2)})


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (pickle.dumps({"lora": 1}), InvalidInput, "a pickle, which could run code"),
        (b"PK\x03\x04 what torch.save writes", InvalidInput, "a pickle"),
        (b"not at all", InvalidInput, "no safetensors file"),
        (b"", InvalidInput, "no safetensors file"),
        (save({"weight": torch.zeros(2)}), InvalidInput, "weight, which is no pair of LoRA matrices"),
        (_with("lora_unet_mid_block.dora_scale"), InvalidInput, "DoRA, LoHa and LoKr are not accepted"),
        (_with("lora_unet_nothing_here.lora_down.weight"), InvalidInput, "lacks|does not know"),
        (_wide(), InvalidParameter, "sd: layer unet.*is 16 wide in the model and 320 in the adapter"),
        (save({**kohya_file(SDXL_LAYERS)}), InvalidParameter, "fits no model that pictures are drawn with here"),
        (b"x" * 100_001, PayloadTooLarge, "at most 100000 are accepted"),
    ],
)
async def test_files_that_are_not_accepted(serve, store, content, error, said):
    async with serve("sd", max_adapter_bytes=100_000) as channel:
        exchange = Exchange(channel, store)
        with pytest.raises(error, match=said) as refused:
            await exchange.publish("bad", content)
        assert 400 <= refused.value.http_status < 500
        assert "bad" not in await exchange.registry.names()


async def test_requests_that_are_not_accepted(serve, store):
    content = save(kohya_file(SD_LAYERS))

    async def refusal(kind: type[NarrativeError], name: str, **more: object) -> str:
        with pytest.raises(kind) as refused:
            await exchange.publish(name, content, **more)
        return refused.value.message

    async with serve("sd") as channel:
        exchange = Exchange(channel, store)
        assert "there is an adapter 'seal'" in await refusal(Conflict, "seal")
        assert "there are sd" in await refusal(ModelNotFound, "new", base="nobody")
        assert "is not a name" in await refusal(InvalidParameter, "../new")
        with pytest.raises(AdapterNotFound, match="no adapter 'nobody'"):
            await exchange.kohya("nobody")
        with pytest.raises(InvalidParameter, match="fits no model"):
            await exchange.kohya("giant")
        with pytest.raises(NotFound, match="no object"):
            await exchange.publish("new", content, object="incoming/nothing")


async def test_what_a_killed_import_left_does_not_take_the_name(serve, store):
    async with serve("sd") as channel:
        exchange = Exchange(channel, store)
        await Objects(str(store)).put("adapters/cut-off/0123abcd/pytorch_lora_weights.safetensors", b"half of")
        await exchange.publish("cut-off", save(kohya_file(SD_LAYERS)))
        assert (await exchange.registry.entry("cut-off")).name == "cut-off"


def test_ranks_and_alphas_are_in_the_header(tmp_path):
    """What diffusers itself would make of a file without them is another picture."""
    layer = Layer(torch.ones(2, 16), torch.ones(16, 2), 7.0)
    path = write_diffusers({"unet.mid_block.attentions.0.proj_in": layer}, "sd", tmp_path)
    with safe_open(path, "pt") as opened:
        kept = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert (kept["unet.r"], kept["unet.lora_alpha"]) == (2, 7.0)
