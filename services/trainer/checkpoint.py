"""Checkpoint files that survive being killed in the middle of writing, and the signal that asks for one."""

from __future__ import annotations

import errno
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        OSError: it could not be written whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        torch.save(state, temporary)
        temporary.replace(path)
    except RuntimeError as error:  # what torch makes of every failure to write
        # Not an error of ours: Storybook is trained on machines where nothing but torch is installed.
        raise OSError(errno.ENOSPC, f"checkpoint could not be written: {error}", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """Read a checkpoint of ``save``: tensors and plain values only, nothing that could run code.

    Args:
        mapped: read tensors only when they are looked at.
    """
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    return state


class StopRequest:
    """True once SIGTERM or SIGINT has come, so that a loop can save and leave at the end of a step."""

    def __init__(self) -> None:
        self.asked = False
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore(self) -> None:
        """Give the signals back to whoever had them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.asked = True

    def __bool__(self) -> bool:
        return self.asked


class Ema:
    """Exponential moving average of weights, by name, with the usual warm-up of the decay."""

    def __init__(self, weights: Mapping[str, torch.Tensor], decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.shadow = {name: value.detach().clone() for name, value in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take one step towards the present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in weights.items():
            if value.dtype.is_floating_point:
                self.shadow[name].lerp_(value, 1 - decay)
            else:
                self.shadow[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return what ``load_state_dict`` takes."""
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average."""
        self.updates, self.shadow = int(state["updates"]), dict(state["shadow"])
