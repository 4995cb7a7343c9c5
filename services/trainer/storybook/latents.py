"""What a latent means: the four strongest linear features of an 8 x 8 patch, each of unit variance.

An autoencoder that has to invent its own latents takes hours on a CPU before a text-to-image model can start on
them. Here the latents are given: principal components of patches, that is brightness, two colours and a light
gradient. The three networks then learn side by side: the UNet to make such latents, the decoder to restore a
picture from them, the encoder to compute them. A latent is close to the picture made 8 times smaller, which is
also what makes it quick to learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from services.trainer.storybook.dataset import PATCH_PX
from services.trainer.storybook.diffusers_parts import AutoencoderKL

CHANNELS = 4


@dataclass(frozen=True, slots=True)
class LatentSpace:
    """Linear features of patches.

    Attributes:
        filters: float32 (4, 3, 8, 8).
        offset: float32 (4,), so that the latents of the fitted pictures have mean 0 and standard deviation 1.
    """

    filters: torch.Tensor
    offset: torch.Tensor

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return float32 (n, 4, h/8, w/8) for float32 (n, 3, h, w) pixels in [-1, 1]."""
        return functional.conv2d(pixels, self.filters, self.offset, stride=PATCH_PX)

    def to_rgb(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return float32 (3, 5): the mean colour of a patch from its latents and 1, by least squares over pixels."""
        latents = self.encode(pixels).permute(0, 2, 3, 1).reshape(-1, CHANNELS)
        colours = functional.avg_pool2d(pixels, PATCH_PX).permute(0, 2, 3, 1).reshape(-1, 3)
        known = torch.cat([latents, torch.ones(len(latents), 1)], dim=1)
        solution: torch.Tensor = torch.linalg.lstsq(known, colours).solution
        return solution.T.contiguous()

    def save(self, path: Path) -> None:
        """Write to a safetensors file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"filters": self.filters.contiguous(), "offset": self.offset}, path)

    @staticmethod
    def load(path: Path) -> LatentSpace:
        """Read a file of ``save``."""
        tensors = load_file(path)
        return LatentSpace(tensors["filters"], tensors["offset"])


@torch.no_grad()
def of_encoder(vae: AutoencoderKL, pixels: torch.Tensor) -> LatentSpace:
    """Return the linear features that come nearest to an encoder's, by least squares over (n, 3, h, w) pixels."""
    patches = functional.unfold(pixels, PATCH_PX, stride=PATCH_PX).transpose(1, 2).reshape(-1, 3 * PATCH_PX**2)
    latents = vae.encode(pixels).latent_dist.mean.permute(0, 2, 3, 1).reshape(-1, CHANNELS)
    known = torch.cat([patches, torch.ones(len(patches), 1)], dim=1)
    # By way of the covariance: neighbouring pixels are too much alike for a solution that takes them one by one.
    gram = known.T.double() @ known.double() + 1e-2 * torch.eye(known.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(gram, known.T.double() @ latents.double()).float().T
    return LatentSpace(solution[:, :-1].reshape(CHANNELS, 3, PATCH_PX, PATCH_PX).contiguous(), solution[:, -1].clone())


def fit(pixels: torch.Tensor) -> LatentSpace:
    """Fit the principal components of the patches of float32 (n, 3, h, w) pixels in [-1, 1]."""
    patches = functional.unfold(pixels, PATCH_PX, stride=PATCH_PX).transpose(1, 2).reshape(-1, 3 * PATCH_PX**2)
    mean = patches.mean(dim=0)
    centred = (patches - mean).double().numpy()
    variances, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    strongest = vectors[:, ::-1][:, :CHANNELS] / np.sqrt(variances[::-1][:CHANNELS])
    filters = torch.from_numpy(np.ascontiguousarray(strongest.T)).float()
    return LatentSpace(filters.reshape(CHANNELS, 3, PATCH_PX, PATCH_PX), -(filters @ mean))
