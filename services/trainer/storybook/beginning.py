"""A training that goes on from a model that was exported, on other scenes or with other settings."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from services.trainer import checkpoint
from services.trainer.storybook import model, widening
from services.trainer.storybook.diffusers_parts import AutoencoderKL, StableDiffusionPipeline


def start_path(work_dir: Path) -> Path:
    """Return where the weights lie that text encoder and UNet of a run begin with."""
    return work_dir / "start.pt"


def begin(work_dir: Path, folder: Path, latent_channels: int = 0, *, double_first_level: bool = False) -> None:
    """Put an exported model into a new ``work_dir``, where ``cutouts``, ``vae`` and ``train`` go on from it.

    Args:
        latent_channels: how many its latents are to have, if more than they have; at first the model knows nothing
            of the new ones and draws as before. 0 keeps them.
        double_first_level: let the UNet be twice as wide at full latent resolution.

    Raises:
        FileExistsError: if a training was begun there.
        FileNotFoundError: if there is no model in ``folder``.
        WidthError: if ``latent_channels`` are fewer than the model's.
    """
    if any((work_dir / name).exists() for name in ("text_to_image.pt", "latent_space.safetensors", "vae")):
        raise FileExistsError(f"a training was begun in {work_dir}; take another --work-dir")
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(f"{folder} is no exported model: it has no model_index.json")
    pipeline = StableDiffusionPipeline.from_pretrained(folder).to(torch.float32)
    if latent_channels:
        widening.add_latent_channels(pipeline, latent_channels)
    if double_first_level:
        pipeline.unet = widening.double_first_level(pipeline.unet, _size_of(pipeline))
    pipeline.tokenizer.save_pretrained(work_dir / "tokenizer")
    pipeline.vae.save_pretrained(work_dir / "vae")
    (work_dir / "model_size.json").write_text(json.dumps(asdict(_size_of(pipeline))), encoding="utf-8")
    both = torch.nn.ModuleDict({"text_encoder": pipeline.text_encoder, "unet": pipeline.unet})
    checkpoint.save(start_path(work_dir), dict(both.state_dict()))


def read_vae(work_dir: Path) -> AutoencoderKL | None:
    """Return the autoencoder that a run begins with, None if it begins with an untrained one."""
    folder = work_dir / "vae"
    return AutoencoderKL.from_pretrained(folder) if (folder / "config.json").exists() else None


def _size_of(pipeline: StableDiffusionPipeline) -> model.ModelSize:
    text, unet = pipeline.text_encoder.config, pipeline.unet.config
    return model.ModelSize(
        text_width=text.hidden_size,
        text_layers=text.num_hidden_layers,
        unet_channels=tuple(unet.block_out_channels),
        head_width=unet.block_out_channels[-1] // unet.attention_head_dim[-1],
        latent_px=unet.sample_size,
        latent_channels=unet.in_channels,
        unet_layers=unet.layers_per_block,
    )
