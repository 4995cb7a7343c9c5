"""The autoencoder of a device run: it finds its own latents, for which a CPU has no time (see ``latents``)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch

from services.trainer.storybook import initialise
from services.trainer.storybook.diffusers_parts import AutoencoderKL
from services.trainer.storybook.objective import Average

logger = logging.getLogger(__name__)

_KL_WEIGHT = 1e-4
_EDGE_WEIGHT = 0.5


def build(channels: tuple[int, ...], size_px: int, latent_channels: int) -> AutoencoderKL:
    """Make an untrained autoencoder: 8 times smaller on each side."""
    levels = len(channels)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=1,  # of more, each would forget how light its part of the picture is
        sample_size=size_px,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
    )
    initialise.quiet_residuals(vae)
    return vae


def loss_of(vae: AutoencoderKL, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss and the plain L1 of float32 (n, 3, h, w) pixels in [-1, 1].

    A drawing is its edges, so differences between neighbours count besides the pixels.
    """
    posterior = vae.encode(pixels).latent_dist
    restored = vae.decode(posterior.sample()).sample.float()
    error = (restored - pixels).abs()
    edges = (restored.diff(dim=-1) - pixels.diff(dim=-1)).abs().mean()
    edges = edges + (restored.diff(dim=-2) - pixels.diff(dim=-2)).abs().mean()
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    divergence = 0.5 * (mean.pow(2) + logvar.exp() - 1.0 - logvar).mean()
    loss = error.mean() + 0.5 * error.pow(2).mean() + _EDGE_WEIGHT * edges + _KL_WEIGHT * divergence
    return loss, error.detach().mean()


def train(
    vae: AutoencoderKL,
    pictures: Callable[[int], torch.Tensor],
    seconds: float,
    clock: Callable[[], float],
    autocast: Callable[[], torch.autocast],
    learning_rate: float = 1e-3,
) -> None:
    """Train for ``seconds`` on what ``pictures(step)`` returns, float (n, 3, h, w) in [-1, 1]; average; scale.

    Afterwards the configuration's ``scaling_factor`` makes latents of unit variance.
    """
    initialise.channels_last(vae)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=learning_rate, weight_decay=1e-4, betas=(0.9, 0.99))
    ema = Average(vae.state_dict(), 0.998)
    started, step, progress = clock(), 0, 0.0
    while progress < 1.0:
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / 100)
            group["lr"] = learning_rate * warm * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * progress)))
        with autocast():
            loss, error = loss_of(vae, pictures(step).contiguous(memory_format=torch.channels_last))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        ema.update(vae.state_dict())
        step += 1
        if step % 100 == 0:  # reading the loss waits for the device
            logger.info("vae step %d, %.0f s: L1 %.4f", step, clock() - started, float(error))
        progress = (clock() - started) / seconds
    vae.load_state_dict(ema.shadow)
    vae.eval()
    with torch.no_grad():
        sample = pictures(step)
        latents = vae.encode(sample).latent_dist.mean
        error = (vae.decode(latents).sample - sample).abs().mean()
    vae.register_to_config(scaling_factor=1.0 / float(latents.std()))
    logger.info("vae: %d steps, latent std %.3f, L1 there and back %.4f", step, float(latents.std()), float(error))
