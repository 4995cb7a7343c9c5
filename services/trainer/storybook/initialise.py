"""A gentler start than diffusers' default: every residual branch begins as nothing.

The network is then shallow at first, which a run of only a few thousand steps cannot do without
(arXiv:1706.02677 for the zeroed branches, arXiv:2105.05233 for their use in diffusion models).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import nn


def _zero(layer: nn.Module | None) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def quiet_residuals(network: nn.Module) -> None:
    """Zero the last layer of every residual block and transformer; let upsamplers begin as plain enlargement."""
    for module in network.modules():
        if isinstance(module, ResnetBlock2D):
            _zero(module.conv2)
        elif isinstance(module, Transformer2DModel):
            _zero(module.proj_out)
        elif isinstance(module, Upsample2D) and isinstance(module.conv, nn.Conv2d):
            nn.init.dirac_(module.conv.weight)
            if module.conv.bias is not None:
                nn.init.zeros_(module.conv.bias)


def channels_last(network: nn.Module) -> None:
    """Store convolution weights with the channels last, in place; a tenth faster on a CPU."""
    untyped: Any = network
    untyped.to(memory_format=torch.channels_last)


_CARRIED = 8
_ANCHOR = 3.0


@torch.no_grad()
def begin_as_enlargement(decoder: nn.Module, to_rgb: torch.Tensor) -> None:
    """Make a decoder begin as a smooth enlargement of the colours its latents hold, and learn detail from there.

    Six channels carry red, green and blue and their negatives (as silu(x) - silu(-x) = x, they pass the last
    activation unharmed); two carry a constant, so that the last normalisation, one group wide, leaves the lightness
    of a picture alone. Everything stays trainable.

    Args:
        decoder: the ``decoder`` of an AutoencoderKL after ``quiet_residuals``, at least ``_CARRIED`` channels wide.
        to_rgb: float32 (3, channels + 1), colours in [-1, 1] from the latents and 1.
    """
    parts: Any = decoder
    parts.conv_in.weight[:_CARRIED] = 0.0
    parts.conv_in.weight[:6, :, 1, 1] = torch.cat([to_rgb[:, :-1], -to_rgb[:, :-1]])
    parts.conv_in.bias[:_CARRIED] = torch.cat([to_rgb[:, -1], -to_rgb[:, -1], torch.tensor([_ANCHOR, -_ANCHOR])])
    blur = torch.tensor([1.0, 2.0, 1.0]) / 4
    for module in decoder.modules():
        if isinstance(module, ResnetBlock2D) and module.conv_shortcut is not None:
            shortcut: Any = module.conv_shortcut
            shortcut.weight[:_CARRIED] = 0.0
            shortcut.weight[:_CARRIED, :_CARRIED, 0, 0] = torch.eye(_CARRIED)
            shortcut.bias[:_CARRIED] = 0.0
            shortcut.weight[_CARRIED:] *= 0.3
        elif isinstance(module, Upsample2D) and isinstance(module.conv, nn.Conv2d):
            channels = torch.arange(module.conv.out_channels)
            kernel = module.conv.weight
            kernel.zero_()
            kernel[channels, channels] = torch.outer(blur, blur)
    parts.conv_out.weight.mul_(0.1)
    parts.conv_out.weight[:, :6, 1, 1] += torch.cat([torch.eye(3), -torch.eye(3)], dim=1) * _ANCHOR * 0.41
    parts.conv_out.bias.zero_()
