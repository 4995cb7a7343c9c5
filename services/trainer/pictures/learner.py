"""The learner of the recipes that train a LoRA adapter on prompted pictures."""

from collections.abc import Mapping
from typing import Any

import PIL.Image
import torch
from torch import nn

from services.trainer.learner import Learner
from services.trainer.pictures.adapter import trained
from services.trainer.pictures.base import BaseModel
from services.trainer.pictures.latents import draw_latents, moments
from services.trainer.pictures.objective import Objective
from services.trainer.pictures.text import Conditions, KeptText, encode_text


class AdapterLearner(Learner):
    """Denoises pictures with their prompts.

    Args:
        modules: what carries an adapter, by name.
        prompts: all prompts of the data; batches hold their numbers.
        kept_text: the prompts where they are encoded already.
        text_rate: learning rate of the text encoders; that of the denoiser if None.
    """

    def __init__(
        self,
        base: BaseModel,
        modules: Mapping[str, nn.Module],
        prompts: list[str],
        *,
        kept_text: KeptText | None = None,
        text_rate: float | None = None,
        sample_prompt: str = "",
        resolution: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._base, self._prompts, self._text_rate = base, prompts, text_rate
        self._sample_prompt, self._resolution, self._seed = sample_prompt, resolution, seed
        self._kept_text = kept_text
        self._objective = Objective(base)
        self.parts = nn.ModuleDict(modules)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        pictures = batch["pictures"]
        if pictures.shape[1] == 3:
            pictures = moments(self._base.pipeline.vae, pictures)
        latents = draw_latents(self._base.autoencoder_config, pictures)
        losses = self._objective.losses(latents, self._conditions(batch["prompts"]))
        return (losses * batch["weights"]).sum() / batch["instances"]

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        rates = dict.fromkeys(self.parts, learning_rate)
        if self._text_rate is not None:
            rates |= {name: self._text_rate for name in self.parts if name.startswith("text_encoder")}
        return [
            {"name": name, "params": list(trained(module)), "lr": rates[name]} for name, module in self.parts.items()
        ]

    def sample(self, step: int) -> Mapping[str, PIL.Image.Image]:
        del step
        device = next(self.parameters()).device
        with torch.autocast(device.type, dtype=self._base.dtype, enabled=self._base.dtype != torch.float32):
            drawn = self._base.pipeline(
                self._sample_prompt,
                num_inference_steps=self._base.num_steps,
                guidance_scale=self._base.guidance_scale,
                width=self._resolution,
                height=self._resolution,
                generator=torch.Generator("cpu").manual_seed(self._seed),
            )
        return {"0": drawn.images[0]}

    def _conditions(self, numbers: torch.Tensor) -> Conditions:
        if self._kept_text is not None:
            return self._kept_text.conditions(numbers)
        return encode_text(self._base, [self._prompts[number] for number in numbers.tolist()], numbers.device)
