"""What a latent means: the strongest linear features of an 8 x 8 patch.

An autoencoder that has to invent its own latents takes hours on a CPU before a text-to-image model can start on
them. Here the latents are given: principal components of patches, that is brightness, two colours, then gradients
and finer and finer waves. The three networks learn side by side: the UNet to make such latents, the decoder to
restore a picture from them, the encoder to compute them. Its first channels are close to the picture made 8 times
smaller, which is also what makes it quick to learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from services.trainer.storybook.dataset import PATCH_PX
from services.trainer.storybook.diffusers_parts import AutoencoderKL

_ALIKE = 4
"""Features of unit variance. Weaker ones are given less, so that noise hides them first and they are drawn last."""
_NOTHING = 1e-6
"""Variance of a feature that pictures do not have."""


@dataclass(frozen=True, slots=True)
class LatentSpace:
    """Linear features of patches.

    Attributes:
        filters: float32 (channels, 3, 8, 8).
        offset: float32 (channels,), so that the latents of the fitted pictures have mean 0.
    """

    filters: torch.Tensor
    offset: torch.Tensor

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return float32 (n, channels, h/8, w/8) for float32 (n, 3, h, w) pixels in [-1, 1]."""
        return functional.conv2d(pixels, self.filters, self.offset, stride=PATCH_PX)

    def to_rgb(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return float32 (3, channels + 1): the mean colour of a patch from its latents and 1, by least squares."""
        latents = self.encode(pixels).permute(0, 2, 3, 1).reshape(-1, len(self.offset))
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
    """Return the linear features that come nearest to an encoder's, by least squares over (n, 3, h, w) pixels.

    Channels of which it knows nothing yet (``beginning.begin``) get the strongest features of what the others leave.
    """
    patches = _patches(pixels)
    means = vae.encode(pixels).latent_dist.mean.permute(0, 2, 3, 1).flatten(0, 2).double()
    told = means[:, means.std(dim=0) > 0]
    known = torch.cat([patches, torch.ones(len(patches), 1, dtype=patches.dtype)], dim=1)
    # By way of the covariance: neighbouring pixels are too much alike for a solution that takes them one by one.
    gram = known.T @ known + 1e-2 * torch.eye(known.shape[1], dtype=known.dtype)
    solution = torch.linalg.solve(gram, known.T @ told).T
    space = _space(solution[:, :-1], solution[:, -1])
    return _with_more(space, patches, means.shape[1])


def fit(pixels: torch.Tensor, channels: int) -> LatentSpace:
    """Fit ``channels`` principal components to the patches of float32 (n, 3, h, w) pixels in [-1, 1]."""
    nothing = _space(torch.zeros(0, 3 * PATCH_PX**2), torch.zeros(0))
    return _with_more(nothing, _patches(pixels), channels)


def _patches(pixels: torch.Tensor) -> torch.Tensor:
    """Float64 (patches, 192)."""
    return functional.unfold(pixels, PATCH_PX, stride=PATCH_PX).transpose(1, 2).flatten(0, 1).double()


def _space(filters: torch.Tensor, offset: torch.Tensor) -> LatentSpace:
    """Of (channels, 192) and (channels,) in any precision."""
    return LatentSpace(filters.float().reshape(-1, 3, PATCH_PX, PATCH_PX).contiguous(), offset.float())


def _with_more(space: LatentSpace, patches: torch.Tensor, channels: int) -> LatentSpace:
    """Add the strongest principal components of what the features of ``space`` leave of (n, 192) patches."""
    known = space.filters.flatten(1).double()
    mean = patches.mean(dim=0)
    left = torch.eye(patches.shape[1], dtype=patches.dtype) - torch.linalg.pinv(known) @ known
    centred = (patches - mean) @ left
    variances, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    variances = variances.flip(0)[: channels - len(known)].clamp(min=_NOTHING)
    vectors = vectors.flip(1)[:, : channels - len(known)]
    weakest_alike = variances[max(0, _ALIKE - len(known) - 1)] if len(variances) else variances
    deviations = (variances / weakest_alike).clamp(max=1.0) ** 0.25
    filters = torch.cat([known, (vectors * deviations / variances.sqrt()).T])
    return _space(filters, torch.cat([space.offset.double(), -(filters[len(known) :] @ mean)]))
