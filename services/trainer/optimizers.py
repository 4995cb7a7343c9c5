"""Optimizers and how their learning rate goes."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from prodigyopt import Prodigy

from narrative.errors import InvalidParameter
from services.trainer.config import LoopSettings


def make_optimizer(groups: Sequence[dict[str, Any]], settings: LoopSettings) -> torch.optim.Optimizer:
    """Makes the optimizer of parameter groups, each with ``name``, ``params`` and ``lr``.

    Raises:
        InvalidParameter: different rates with Prodigy, whose one estimate serves all groups (arXiv:2306.06101).
    """
    betas = (settings.adam_beta1, settings.adam_beta2)
    shared: dict[str, Any] = {"betas": betas, "eps": settings.adam_epsilon, "weight_decay": settings.weight_decay}
    groups = [{**group, "initial_lr": group["lr"]} for group in groups]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, **shared)
    if len({group["lr"] for group in groups}) > 1:
        raise InvalidParameter(
            "prodigy finds one rate for everything that is trained; leave text_encoder_lr out", field="text_encoder_lr"
        )
    optimizer: torch.optim.Optimizer = Prodigy(
        groups,
        lr=settings.learning_rate,
        beta3=settings.prodigy_beta3,
        decouple=True,
        use_bias_correction=settings.prodigy_use_bias_correction,
        safeguard_warmup=settings.prodigy_safeguard_warmup,
        **shared,
    )
    return optimizer


def rate_factor(settings: LoopSettings, step: int, num_steps: int) -> float:
    """What the learning rate of a step, from 0, is multiplied with."""
    warmup = settings.lr_warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    if settings.lr_scheduler == "linear":
        return 1 - progress
    if settings.lr_scheduler == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0
