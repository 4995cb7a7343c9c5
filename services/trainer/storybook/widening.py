"""A trained model made wider without forgetting: more latent channels, or a UNet whose first level is twice as wide.

What was learned stays (arXiv:1511.05641): new latent channels begin without effect, and a channel that becomes two
shares its effect between them, unevenly, so that they can part ways.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

from services.trainer.storybook import model
from services.trainer.storybook.diffusers_parts import StableDiffusionPipeline, UNet2DConditionModel


class WidthError(ValueError):
    """A model was to become narrower, or wider in a way that is not known."""


def add_latent_channels(pipeline: StableDiffusionPipeline, channels: int) -> None:
    """Give UNet and autoencoder ``channels`` latent channels, those that are new without effect.

    Raises:
        WidthError: if they have more.
    """
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


@torch.no_grad()
def double_first_level(unet: UNet2DConditionModel, size: model.ModelSize) -> UNet2DConditionModel:
    """Return a UNet that is twice as wide at full latent resolution and predicts nearly what ``unet`` does.

    Not quite: where channels of several levels are normalised together, the borders between groups have moved; and
    where both levels are now of one width, no convolution leads past the first block of the second.

    Args:
        size: of the model that ``unet`` is of.
    """
    first, *others = size.unet_channels
    wide = model.build_unet(replace(size, unet_channels=(2 * first, *others)))
    doubled, known, weights = _Doubled(unet), unet.state_dict(), wide.state_dict()
    for name, fresh in weights.items():
        fit = _fit_time if name.startswith("time_embedding.") else doubled.fit
        weights[name] = fit(name, known[name], fresh)
    wide.load_state_dict(weights)
    return wide


class _Doubled:
    """Finds for every channel of the wide UNet the one that it was."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        first, second = unet.config.block_out_channels[:2]
        # Both of a pair stay in the group they are normalised with.
        self._twice = torch.cat([group.repeat(2) for group in torch.arange(first).chunk(unet.config.norm_num_groups)])
        last, layers = len(unet.up_blocks) - 1, unet.config.layers_per_block
        below = torch.cat([torch.arange(second), second + self._twice])
        self._joined = {f"up_blocks.{last - 1}.resnets.{layers}": below, f"up_blocks.{last}.resnets.0": below}
        same = torch.cat([self._twice, first + self._twice])
        self._joined |= {f"up_blocks.{last}.resnets.{layer}": same for layer in range(1, layers + 1)}

    def fit(self, name: str, known: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
        """Return ``known`` in the shape of ``fresh``, in which channels that became two share what they gave."""
        block, _, layer = name.rpartition(".")[0].rpartition(".")
        joins = layer in ("norm1", "conv1", "conv_shortcut")
        inputs = self._joined.get(block, self._twice) if joins else self._twice
        if name.endswith("time_emb_proj.weight"):  # what the embedding has more begins without effect
            known = functional.pad(known, (0, fresh.shape[1] - known.shape[1]))
        elif known.dim() > 1 and known.shape[1] != fresh.shape[1]:
            known = _shared(known, inputs)
        if len(known) == len(fresh):
            return known
        # Normalisations of joined channels have as many numbers as there are inputs.
        return known[inputs if len(inputs) == len(fresh) else self._twice]


def _shared(weight: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Columns ``inputs`` of a weight; what comes twice is divided, a quarter to three quarters each."""
    wide = weight[:, inputs]
    for column in set(inputs.tolist()):
        pair = (inputs == column).nonzero().flatten().tolist()
        if len(pair) == 2:
            share = 0.25 + 0.5 * torch.rand(weight[:, column].shape)
            wide[:, pair[0]], wide[:, pair[1]] = weight[:, column] * share, weight[:, column] * (1 - share)
    return wide


def _fit_time(name: str, known: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
    """The embedding of a timestep: twice as many waves, every other one of which was there before."""
    wide = fresh.clone()
    if name == "time_embedding.linear_1.weight":
        rows, waves = known.shape
        wide[:rows] = 0.0
        wide[:rows, ::2] = known[:, :waves]
    elif known.dim() == 2:
        wide[: len(known)] = 0.0
        wide[: len(known), : known.shape[1]] = known
    else:
        wide[: len(known)] = known
    return wide
