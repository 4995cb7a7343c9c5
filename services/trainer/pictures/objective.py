"""The loss of a denoiser on latents: epsilon or v-prediction for SD and SDXL, flow matching for FLUX."""

from typing import Any

import torch
from diffusers import DDPMScheduler
from torch.nn import functional

from services.trainer.pictures.base import BaseModel
from services.trainer.pictures.text import Conditions


class Objective:
    """What is asked of the denoiser at a random noise level.

    Args:
        guidance: what a guidance-distilled FLUX is told while it learns.
    """

    def __init__(self, base: BaseModel, guidance: float = 1.0) -> None:
        self._denoiser, self._dtype = base.denoiser, base.dtype
        self._family, self._guidance = base.family, guidance
        self._scale = base.pipeline.vae_scale_factor
        config = base.pipeline.scheduler.config
        self._schedule: Any = None if base.family == "flux" else DDPMScheduler.from_config(config)  # type: ignore[no-untyped-call]

    def losses(self, latents: torch.Tensor, conditions: Conditions, images: torch.Tensor | None = None) -> torch.Tensor:
        """Mean squared errors, float32 (batch,).

        Args:
            latents: (batch, channels, height, width), scaled as the denoiser expects.
            images: more channels beside the noisy latents, (batch, more channels, height, width).
        """
        if self._family == "flux":
            return self._flow(latents, conditions)
        batch = len(latents)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(self._schedule.config.num_train_timesteps, (batch,), device=latents.device)
        noisy = self._schedule.add_noise(latents, noise, timesteps)
        if images is not None:
            noisy = torch.cat([noisy, images], dim=1)
        more: dict[str, Any] = {}
        if self._family == "sdxl":
            side_px = latents.shape[-1] * self._scale
            # Original size, crop and target size: whole pictures of the size they are trained at.
            sizes = torch.tensor([side_px, side_px, 0, 0, side_px, side_px], device=latents.device)
            more["added_cond_kwargs"] = {"text_embeds": conditions["pooled"], "time_ids": sizes.repeat(batch, 1)}
        dtype = self._dtype
        predicted = self._denoiser(noisy.to(dtype), timesteps, conditions["states"].to(dtype), **more).sample
        if self._schedule.config.prediction_type == "v_prediction":
            target = self._schedule.get_velocity(latents, noise, timesteps)
        else:
            target = noise
        return _mean_squares(predicted, target)

    def _flow(self, latents: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """Rectified flow with logit-normal noise levels (arXiv:2403.03206)."""
        # Brings T5 and ONNX Runtime with it, which no other family needs.
        from diffusers import FluxPipeline

        batch, channels, height, width = latents.shape
        device, denoiser = latents.device, self._denoiser
        noise = torch.randn_like(latents)
        sigmas = torch.sigmoid(torch.randn(batch, device=device))
        levels = sigmas.view(-1, 1, 1, 1)

        def packed(tensor: torch.Tensor) -> torch.Tensor:
            patches: torch.Tensor = FluxPipeline._pack_latents(tensor, batch, channels, height, width)
            return patches

        dtype = self._dtype
        states = conditions["states"].to(dtype)
        guided = denoiser.config.guidance_embeds
        predicted = denoiser(
            hidden_states=packed((1 - levels) * latents + levels * noise).to(dtype),
            timestep=sigmas.to(dtype),
            guidance=torch.full((batch,), self._guidance, device=device, dtype=dtype) if guided else None,
            pooled_projections=conditions["pooled"].to(dtype),
            encoder_hidden_states=states,
            txt_ids=torch.zeros(states.shape[1], 3, device=device, dtype=dtype),
            img_ids=FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, device, dtype),
        ).sample
        return _mean_squares(predicted, packed(noise - latents))


def _mean_squares(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    errors = functional.mse_loss(predicted.float(), target.float(), reduction="none")
    return errors.flatten(1).mean(dim=1)
