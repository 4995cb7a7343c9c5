"""What is computed once instead of in every step: latents of pictures and encoded prompts."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch


class TensorFile:
    """Tensors of one shape in a file that is mapped rather than read, so that memory stays small.

    Args:
        rows: float32 tensors of one shape; asked for once, one after the other.
    """

    def __init__(self, path: Path, rows: Iterable[torch.Tensor], num: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("wb") as file:
                _write(file, rows, num)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        self._kept = np.load(path, mmap_mode="r")

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.array(self._kept[index]))


def _write(file: BinaryIO, rows: Iterable[torch.Tensor], num: int) -> None:
    """Writes an .npy file row by row: on a full disk that is an error, where writing to a mapping would be a signal."""
    for index, row in enumerate(rows):
        if index == 0:
            header = {"descr": "<f4", "fortran_order": False, "shape": (num, *row.shape)}
            np.lib.format.write_array_header_2_0(file, header)
        file.write(row.float().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes())


@torch.no_grad()
def moments(autoencoder: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation of the latents, float32 (batch, 2 x channels, height/8, width/8).

    They are kept rather than latents, so that every step still draws its own.

    Args:
        pixels: float32 (batch, 3, height, width), [-1, 1].
    """
    distribution = autoencoder.encode(pixels).latent_dist
    # Noise is drawn in the order of memory, so that must not depend on whether the latents were kept.
    return torch.cat([distribution.mean, distribution.std], dim=1).contiguous()


def draw_latents(autoencoder_config: Any, kept: torch.Tensor) -> torch.Tensor:
    """Latents drawn from moments and scaled as the denoiser expects, float32 (batch, channels, height/8, width/8)."""
    mean, deviation = kept.chunk(2, dim=1)
    latents = mean + deviation * torch.randn_like(mean)
    shift = autoencoder_config.get("shift_factor") or 0.0
    return (latents - shift) * float(autoencoder_config["scaling_factor"])
