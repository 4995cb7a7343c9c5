"""What is asked of the denoiser, against the same written out, on tiny random models."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, FluxPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from services.trainer.pictures.base import load_base
from services.trainer.pictures.learner import AdapterLearner
from services.trainer.pictures.objective import Objective

# diffusers 0.42 makes an array of a tensor the old way.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@torch.no_grad()
def test_the_loss_is_the_mean_squared_error_of_predicted_and_true_noise(tiny: Path, prediction: str) -> None:
    base = load_base(str(tiny / "sd"), ["sd"], "no")
    base.pipeline.scheduler.register_to_config(prediction_type=prediction)
    classes = {
        "tokenizer": CLIPTokenizer, "text_encoder": CLIPTextModel, "vae": AutoencoderKL, "unet": UNet2DConditionModel
    }  # fmt: skip
    assert all(isinstance(getattr(base.pipeline, name), cls) for name, cls in classes.items())
    objective = Objective(base)
    assert type(objective._schedule) is DDPMScheduler
    latents, states = torch.randn(3, 4, 32, 32), torch.randn(3, 77, 16)
    torch.manual_seed(5)
    losses = objective.losses(latents, {"states": states})

    torch.manual_seed(5)
    noise = torch.randn_like(latents)
    schedule: Any = DDPMScheduler.from_config(base.pipeline.scheduler.config)
    times = torch.randint(1000, (3,))
    share = schedule.alphas_cumprod[times].view(-1, 1, 1, 1)
    noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
    target = noise if prediction == "epsilon" else share.sqrt() * noise - (1 - share).sqrt() * latents
    predicted = base.denoiser(noisy, times, states).sample
    torch.testing.assert_close(losses, ((predicted - target) ** 2).mean(dim=(1, 2, 3)))


@torch.no_grad()
def test_flux_learns_the_way_from_picture_to_noise(tiny: Path) -> None:
    objective = Objective(load_base(str(tiny / "flux"), ["flux"], "no"))
    latents, seen = torch.randn(2, 4, 8, 8), []

    def still(**given: Any) -> Any:
        seen.append(given)
        return SimpleNamespace(sample=torch.zeros_like(given["hidden_states"]))

    objective._denoiser = still
    still.config = SimpleNamespace(guidance_embeds=True)  # type: ignore[attr-defined]
    torch.manual_seed(5)
    losses = objective.losses(latents, {"states": torch.zeros(2, 3, 16), "pooled": torch.zeros(2, 16)})

    torch.manual_seed(5)
    noise = torch.randn_like(latents)
    levels = torch.sigmoid(torch.randn(2))
    torch.testing.assert_close(losses, ((noise - latents) ** 2).mean(dim=(1, 2, 3)))
    torch.testing.assert_close(seen[0]["timestep"], levels)
    between = (1 - levels.view(-1, 1, 1, 1)) * latents + levels.view(-1, 1, 1, 1) * noise
    torch.testing.assert_close(seen[0]["hidden_states"], FluxPipeline._pack_latents(between, 2, 4, 8, 8))


@torch.no_grad()
def test_the_loss_of_the_subject_and_the_weighed_one_of_its_class_are_added(tiny: Path) -> None:
    learner = AdapterLearner(load_base(str(tiny / "sd"), ["sd"], "no"), {}, ["pim fox", "fox"])
    learner._objective = SimpleNamespace(losses=lambda *_: torch.tensor([1.0, 2.0, 10.0, 20.0]))  # type: ignore[assignment]
    batch = {
        "pictures": torch.zeros(4, 8, 4, 4),
        "prompts": torch.tensor([0, 0, 1, 1]),
        "weights": torch.tensor([1.0, 1.0, 0.5, 0.5]),
        "instances": torch.tensor(2),
    }
    assert learner(batch).item() == (1 + 2) / 2 + 0.5 * (10 + 20) / 2
