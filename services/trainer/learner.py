"""What a recipe gives the loop, and what it gets back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import PIL.Image
import torch
from torch import nn


class Learner(nn.Module):
    """What is trained. A recipe overrides ``forward``, and the others where it has something to say."""

    def forward(self, batch: Any) -> torch.Tensor:
        """The loss of a batch, a scalar: the mean over its examples. May draw from torch's global generator."""
        raise NotImplementedError

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Groups with ``name``, ``params`` and ``lr``; by default all that requires gradients, at one rate."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [{"name": "all", "params": trained, "lr": learning_rate}]

    def sample(self, step: int) -> Mapping[str, PIL.Image.Image | str]:
        """Pictures or texts by name that show how far it is; asked for every ``sample_steps``."""
        del step
        return {}

    def validation_loss(self) -> float | None:
        """Asked for after every epoch, and what early stopping then looks at; None where there is no such thing."""
        return None


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        final_loss: mean loss of the last epoch; None where nothing was left to do.
    """

    steps: int
    epochs: int
    final_loss: float | None
    stopped_early: bool
