"""Prompts to what the denoiser is conditioned on, by the pipelines' own ways; gradients reach the text encoders."""

from collections.abc import Sequence

import torch

from services.trainer.pictures.base import BaseModel

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
