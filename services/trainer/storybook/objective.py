"""What the UNet is trained for, and the running average that is kept of a training's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from services.trainer.storybook.diffusers_parts import DDPMScheduler, UNet2DConditionModel


def denoising_loss(
    unet: UNet2DConditionModel,
    schedule: DDPMScheduler,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    states: torch.Tensor,
    gamma: float,
    cell_weights: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """Return the mean loss of a batch: v-prediction with Min-SNR weighting (arXiv:2303.09556).

    Args:
        cell_weights: float (n, 1, h, w), how much each cell of a latent counts.
    """
    noisy = schedule.add_noise(latents, noise, timesteps).to(memory_format=torch.channels_last)
    target = schedule.get_velocity(latents, noise, timesteps)
    predicted = unet(noisy, timesteps, states).sample.float()
    alphas = schedule.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = alphas / (1 - alphas)
    # Raised to 0.1 so that pure noise still teaches layout.
    weight = (snr.clamp(max=gamma) / (snr + 1)).clamp(min=0.1)
    losses = (functional.mse_loss(predicted, target, reduction="none") * cell_weights).mean(dim=(1, 2, 3))
    mean: torch.Tensor = (losses * weight).mean()
    return mean


class Average:
    """Exponential moving average of weights on their own device, a few kernels for all of them."""

    def __init__(self, weights: Mapping[str, torch.Tensor], decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.shadow = {name: value.detach().clone() for name, value in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take one step towards the present weights; early on the average is short."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        moving = [name for name, value in weights.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.shadow[n] for n in moving], [weights[n] for n in moving], 1 - decay)
