"""A training that goes on from a model that was exported, on other scenes or with other settings."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from services.trainer import checkpoint
from services.trainer.storybook import model
from services.trainer.storybook.diffusers_parts import AutoencoderKL, StableDiffusionPipeline


class WidthError(ValueError):
    """A model was to be begun with fewer latent channels than it has."""


def start_path(work_dir: Path) -> Path:
    """Return where the weights lie that text encoder and UNet of a run begin with."""
    return work_dir / "start.pt"


def begin(work_dir: Path, folder: Path, latent_channels: int = 0) -> None:
    """Put an exported model into a new ``work_dir``, where ``cutouts``, ``vae`` and ``train`` go on from it.

    Args:
        latent_channels: how many its latents are to have, if more than they have; at first the model knows nothing
            of the new ones and draws as before. 0 keeps them.

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
        _widen(pipeline, latent_channels)
    pipeline.tokenizer.save_pretrained(work_dir / "tokenizer")
    pipeline.vae.save_pretrained(work_dir / "vae")
    (work_dir / "model_size.json").write_text(json.dumps(asdict(_size_of(pipeline))), encoding="utf-8")
    both = torch.nn.ModuleDict({"text_encoder": pipeline.text_encoder, "unet": pipeline.unet})
    checkpoint.save(start_path(work_dir), dict(both.state_dict()))


def _widen(pipeline: StableDiffusionPipeline, channels: int) -> None:
    """Give the UNet and the autoencoder ``channels`` latent channels, those that are new without effect."""
    unet, vae = pipeline.unet, pipeline.vae
    more = channels - unet.config.in_channels
    if more < 0:
        raise WidthError(f"the model's latents have {unet.config.in_channels} channels; they can only become more")
    unet.conv_in, unet.conv_out = _more_inputs(unet.conv_in, more), _more_outputs(unet.conv_out, more)
    unet.register_to_config(in_channels=channels, out_channels=channels)
    vae.decoder.conv_in = _more_inputs(vae.decoder.conv_in, more)
    # An encoder gives means, then logarithms of variances.
    vae.encoder.conv_out = _more_outputs(vae.encoder.conv_out, more, parts=2)
    vae.register_to_config(latent_channels=channels)


def _more_inputs(layer: nn.Conv2d, more: int) -> nn.Conv2d:
    return _with_weights(layer, functional.pad(layer.weight, (0, 0, 0, 0, 0, more)), layer.bias)


def _more_outputs(layer: nn.Conv2d, more: int, parts: int = 1) -> nn.Conv2d:
    """Return a layer with ``more`` outputs after each of ``parts`` equal parts of those it has."""
    assert layer.bias is not None, "diffusers gives every convolution one"
    weight = torch.cat([functional.pad(part, (0, 0, 0, 0, 0, 0, 0, more)) for part in layer.weight.chunk(parts)])
    return _with_weights(
        layer, weight, torch.cat([functional.pad(part, (0, more)) for part in layer.bias.chunk(parts)])
    )


def _with_weights(layer: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Conv2d:
    wide = copy.deepcopy(layer)
    wide.out_channels, wide.in_channels = weight.shape[:2]
    wide.weight = nn.Parameter(weight.detach().clone())
    wide.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    return wide


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
