"""The diffusers classes of this recipe, as a type checker should see them.

diffusers imports lazily, which hides from mypy that its models are modules and its schedulers have a config.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import nn

    class _Part:
        """What models, schedulers and pipelines have in common."""

        config: Any

        def __init__(self, *args: Any, **settings: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
        def save_pretrained(self, folder: Any, **options: Any) -> Any: ...
        @classmethod
        def from_pretrained(cls, folder: Any, **options: Any) -> Self: ...

    class AutoencoderKL(_Part, nn.Module):
        """Pictures to latents and back."""

    class UNet2DConditionModel(_Part, nn.Module):
        """Noisy latents, timesteps and text states to a prediction."""

    class DDPMScheduler(_Part):
        """The noise schedule of training."""

    class DPMSolverMultistepScheduler(_Part):
        """The solver of inference."""

    class StableDiffusionPipeline(_Part):
        """All parts together."""

        def __call__(self, prompt: Any, **options: Any) -> Any: ...

else:
    from diffusers import (
        AutoencoderKL,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

__all__ = [
    "AutoencoderKL",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "StableDiffusionPipeline",
    "UNet2DConditionModel",
]
