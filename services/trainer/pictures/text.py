"""Prompts to what the denoiser is conditioned on, by the pipelines' own ways; gradients reach the text encoders."""

from collections.abc import Sequence
from pathlib import Path

import torch

from services.trainer.pictures.base import BaseModel
from services.trainer.pictures.latents import TensorFile

FLUX_TOKENS = 512

# By name: "states" (batch, tokens, width); for SDXL and FLUX also "pooled" (batch, width).
Conditions = dict[str, torch.Tensor]


def encode_text(base: BaseModel, prompts: Sequence[str], device: torch.device) -> Conditions:
    """Encodes prompts, one row each."""
    pipeline = base.pipeline
    if base.family == "sdxl":
        states, _, pooled, _ = pipeline.encode_prompt(list(prompts), device=device, do_classifier_free_guidance=False)
        return {"states": states, "pooled": pooled}
    if base.family == "flux":
        states, pooled, _ = pipeline.encode_prompt(list(prompts), None, device=device, max_sequence_length=FLUX_TOKENS)
        return {"states": states, "pooled": pooled}
    ids = pipeline.tokenizer(
        list(prompts),
        padding="max_length",
        max_length=pipeline.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return {"states": pipeline.text_encoder(ids.to(device))[0]}


class KeptText:
    """Prompts encoded once, in files; only where no text encoder is trained."""

    def __init__(self, base: BaseModel, prompts: Sequence[str], folder: Path, device: torch.device) -> None:
        with torch.no_grad():
            names = encode_text(base, prompts[:1], device).keys()
            self._files = {
                name: TensorFile(
                    folder / f"{name}.npy",
                    (encode_text(base, [prompt], device)[name][0] for prompt in prompts),
                    len(prompts),
                )
                for name in names
            }

    def conditions(self, numbers: torch.Tensor) -> Conditions:
        """Those of prompts by their numbers, int64 (batch,), on the device of these."""
        chosen = numbers.tolist()
        return {
            name: torch.stack([file[number] for number in chosen]).to(numbers.device)
            for name, file in self._files.items()
        }
