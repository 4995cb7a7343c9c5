"""Whether an adapter fits a model, judged by headers alone."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from narrative.errors import InvalidParameter
from narrative.objects import Objects
from narrative.registry import ADAPTERS, Registry
from services.diffusion.adapters import WEIGHTS_NAME, AdapterCache
from services.diffusion.model_folder import ModelCard

LAYER = "encoder.layers.0.self_attn.q_proj"
CARD = ModelCard(
    "sd", Path(), "sd", "text-to-image", "unet", 64, 64, 128, 8, 20, 7.5, 1.5, "PNDM", ("PNDM",)
)  # fmt: skip


@pytest.mark.parametrize("in_adapter", ["", "text_model."])
@pytest.mark.parametrize("in_model", ["", "text_model."])
def test_both_names_of_clips_layers_are_one(tmp_path: Path, in_adapter: str, in_model: str) -> None:
    down, up = torch.zeros(2, 16), torch.zeros(16, 2)
    prefix = f"text_encoder.{in_adapter}{LAYER}"
    save_file({f"{prefix}.lora_A.weight": down, f"{prefix}.lora_B.weight": up}, tmp_path / "pim")
    objects = Objects(str(tmp_path / "objects"))
    asyncio.run(Registry(objects, ADAPTERS).publish("pim", {WEIGHTS_NAME: tmp_path / "pim"}, {}))
    folder = AdapterCache(objects, tmp_path / "copies")
    folder.check_fits("pim", replace(CARD, shapes={"text_encoder": {f"{in_model}{LAYER}.weight": (16, 16)}}))
    with pytest.raises(InvalidParameter, match="wide in the model"):
        folder.check_fits("pim", replace(CARD, shapes={"text_encoder": {f"{in_model}{LAYER}.weight": (32, 32)}}))
    with pytest.raises(InvalidParameter, match="the model has no layer"):
        folder.check_fits("pim", replace(CARD, shapes={"text_encoder": {"other.weight": (16, 16)}}))
