"""How the learning rate goes, and what the optimizers do with rate and weight decay."""

from typing import Any

import pytest
import torch

from services.trainer.config import LoopSettings
from services.trainer.optimizers import make_optimizer, rate_factor


def rates(num_steps: int, **settings: Any) -> list[float]:
    chosen = LoopSettings.model_validate(settings)
    return [rate_factor(chosen, step, num_steps) for step in range(num_steps)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1, 1, 1, 1, 1, 1]),
        ({"lr_scheduler": "constant", "lr_warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 1]),
        ({"lr_scheduler": "linear"}, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ({"lr_scheduler": "linear", "lr_warmup_steps": 2}, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ({"lr_scheduler": "cosine", "lr_warmup_steps": 2}, [0.5, 1, 1, 0.8536, 0.5, 0.1464]),
    ],
)
def test_the_rate_rises_and_falls(settings: dict[str, Any], expected: list[float]) -> None:
    assert rates(6, **settings) == pytest.approx(expected, abs=1e-4)


def stepped(gradient: float, **settings: Any) -> tuple[float, Any]:
    """A weight of 2 after one step, and the optimizer's group."""
    # In double precision: Prodigy's first step is a millionth.
    weight = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    chosen = LoopSettings.model_validate(settings)
    optimizer = make_optimizer([{"name": "all", "params": [weight], "lr": chosen.learning_rate}], chosen)
    weight.grad = torch.full_like(weight, gradient)
    optimizer.step()
    return weight.item(), optimizer.param_groups[0]


@pytest.mark.parametrize("optimizer", ["adamw", "prodigy"])
def test_weight_decay_shrinks_the_weight_beside_the_gradient(optimizer: str) -> None:
    settings = {"optimizer": optimizer, "learning_rate": 0.5, "prodigy_use_bias_correction": False}
    without, _ = stepped(1.0, **settings, weight_decay=0)
    with_it, group = stepped(1.0, **settings, weight_decay=0.3)
    rate = group["lr"] * group.get("d", 1.0)
    assert without - with_it == pytest.approx(0.3 * rate * 2.0)


def test_adamw_decays_by_a_hundredth_unless_told() -> None:
    weight, _ = stepped(0.0, learning_rate=0.1)
    assert weight == pytest.approx(2 * (1 - 0.1 * 0.01))


def test_groups_keep_their_own_rates() -> None:
    groups = [
        {"name": name, "params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate}
        for name, rate in (("unet", 3e-4), ("text_encoder", 1e-5))
    ]
    optimizer = make_optimizer(groups, LoopSettings(learning_rate=3e-4))
    assert [(group["name"], group["lr"], group["initial_lr"]) for group in optimizer.param_groups] == [
        ("unet", 3e-4, 3e-4),
        ("text_encoder", 1e-5, 1e-5),
    ]
