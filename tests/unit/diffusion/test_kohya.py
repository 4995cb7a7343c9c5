"""Kohya's names of every layer of Stable Diffusion 1.x and SDXL, there and back."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from narrative.errors import InvalidInput
from services.diffusion.kohya import modules_of, name_of

LAYERS = (torch.nn.Linear, torch.nn.Conv2d)
SD = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "use_linear_projection": True,
    "projection_class_embeddings_input_dim": 2816,
}


def modules(base: str) -> list[str]:
    """Every layer that may carry LoRA matrices; no memory is taken for weights."""
    with torch.device("meta"):
        parts = {
            "unet": UNet2DConditionModel(**(SDXL if base == "sdxl" else SD)),
            "text_encoder": CLIPTextModel(CLIPTextConfig()),
        }
        if base == "sdxl":
            parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig())
    return [
        f"{part}.{name}"
        for part, model in parts.items()
        for name, module in model.named_modules()
        if isinstance(module, LAYERS)
    ]


@pytest.mark.parametrize(("base", "count"), [("sd", 354), ("sdxl", 939)])
def test_every_layer_has_a_name_and_the_name_leads_back(base: str, count: int) -> None:
    names = {name_of(module, 2, is_sdxl=base == "sdxl"): module for module in modules(base)}
    assert len(names) == count
    found = modules_of(names, 2)
    assert {name: plain(module) for name, module in found.items()} == {
        name: plain(module) for name, module in names.items()
    }


def plain(module: str) -> str:
    return module.replace("text_model.", "")


@pytest.mark.parametrize(
    ("module", "is_sdxl", "name"),
    [
        # As sd-scripts writes them.
        (
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
            False,
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
        ),
        (
            "text_encoder.encoder.layers.3.mlp.fc1",
            False,
            "lora_te_text_model_encoder_layers_3_mlp_fc1",
        ),
        (
            "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k",
            True,
            "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k",
        ),
        ("unet.mid_block.attentions.0.proj_in", True, "lora_unet_middle_block_1_proj_in"),
        (
            "unet.up_blocks.0.attentions.2.transformer_blocks.9.ff.net.0.proj",
            True,
            "lora_unet_output_blocks_2_1_transformer_blocks_9_ff_net_0_proj",
        ),
        ("unet.down_blocks.0.downsamplers.0.conv", True, "lora_unet_input_blocks_3_0_op"),
        (
            "text_encoder_2.text_model.encoder.layers.31.self_attn.out_proj",
            True,
            "lora_te2_text_model_encoder_layers_31_self_attn_out_proj",
        ),
    ],
)
def test_names_are_those_of_sd_scripts(module: str, is_sdxl: bool, name: str) -> None:
    assert name_of(module, 2, is_sdxl=is_sdxl) == name
    assert {plain(found) for found in modules_of([name], 2).values()} == {plain(module)}


def test_what_has_no_name_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no name for the transformer"):
        name_of("transformer.blocks.0", 2, is_sdxl=False)
    with pytest.raises(InvalidInput, match="no name for the layer encoder_hid_proj"):
        name_of("unet.encoder_hid_proj", 2, is_sdxl=True)
    with pytest.raises(InvalidInput, match="does not know"):
        modules_of(["lora_nothing_at_all"], 2)
