"""What is computed once instead of in every step: latents of pictures and encoded prompts."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class TensorFile:
    """Tensors of one shape in a file that is mapped rather than read, so that memory stays small.

    Args:
        rows: float32 tensors of one shape; asked for once, one after the other.
    """

    def __init__(self, path: Path, rows: Iterable[torch.Tensor], num: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept: Any = None
        for index, row in enumerate(rows):
            if kept is None:
                kept = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(num, *row.shape))
            kept[index] = row.float().cpu().numpy()
        kept.flush()
        self._kept = np.load(path, mmap_mode="r")

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.array(self._kept[index]))


@torch.no_grad()
def moments(autoencoder: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation of the latents, float32 (batch, 2 x channels, height/8, width/8).

    They are kept rather than latents, so that every step still draws its own.

    Args:
        pixels: float32 (batch, 3, height, width), [-1, 1].
    """
    distribution = autoencoder.encode(pixels).latent_dist
    return torch.cat([distribution.mean, distribution.std], dim=1)


def draw_latents(autoencoder_config: Any, kept: torch.Tensor) -> torch.Tensor:
    """Latents drawn from moments and scaled as the denoiser expects, float32 (batch, channels, height/8, width/8)."""
    mean, deviation = kept.chunk(2, dim=1)
    latents = mean + deviation * torch.randn_like(mean)
    shift = autoencoder_config.get("shift_factor") or 0.0
    return (latents - shift) * float(autoencoder_config["scaling_factor"])
