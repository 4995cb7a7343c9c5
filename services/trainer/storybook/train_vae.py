"""The AutoencoderKL: the decoder learns to restore pictures from given latents, the encoder to compute them.

Trained on random crops, which a convolutional autoencoder without attention cannot tell from small pictures, so
that a CPU sees several times as many of them. See ``latents`` for why the latents are given.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from services.trainer import checkpoint
from services.trainer.storybook import beginning, dataset, initialise, latents, model
from services.trainer.storybook.diffusers_parts import AutoencoderKL
from services.trainer.storybook.initialise import begin_as_enlargement, quiet_residuals
from services.trainer.storybook.latents import LatentSpace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VaeOptions:
    """Settings of an autoencoder's training; it ends after ``minutes`` or ``steps``, whichever comes first."""

    size_px: int = 128
    crop_px: int = 64
    channels: tuple[int, ...] = (12, 24, 64, 128)
    batch: int = 8
    minutes: float = 45.0
    steps: int = 1_000_000
    learning_rate: float = 1e-3
    latent_noise: float = 0.08
    edge_weight: float = 0.7
    seed: int = 0


def build(options: VaeOptions, latent_channels: int) -> AutoencoderKL:
    """Make an untrained autoencoder: 8 times smaller on each side, no attention."""
    levels = len(options.channels)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=options.channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        # One group: a small network that normalised each channel for itself would forget how light a picture is.
        norm_num_groups=1,
        sample_size=options.size_px,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
    )
    quiet_residuals(vae)
    return vae


def loss_of(
    vae: AutoencoderKL, space: LatentSpace, pixels: torch.Tensor, options: VaeOptions, noise: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Return the loss and the plain L1 of float32 (n, 3, h, w) pixels in [-1, 1].

    The decoder is given slightly noisy latents, as a UNet's are never exact. Besides the pixels their differences
    count (a drawing is its edges), and squares, for the small features that a mean forgets.
    """
    target = space.encode(pixels)
    restored = vae.decode(target + noise * options.latent_noise).sample
    error = (restored - pixels).abs()
    edges = (restored.diff(dim=-1) - pixels.diff(dim=-1)).abs().mean()
    edges = edges + (restored.diff(dim=-2) - pixels.diff(dim=-2)).abs().mean()
    loss = error.mean() + 0.5 * error.pow(2).mean() + options.edge_weight * edges
    share = max(1, len(pixels) // 4)  # the encoder's task is easy: a quarter of the batch is enough for it
    posterior = vae.encode(pixels[:share]).latent_dist
    loss = loss + 0.2 * functional.mse_loss(posterior.mean, target[:share])
    loss = loss + 0.001 * (posterior.logvar + 8.0).pow(2).mean()
    return loss, float(error.detach().mean())


def train(work_dir: Path, options: VaeOptions) -> Path:
    """Train on the shards in ``work_dir``; resumes; returns the model's folder.

    Raises:
        FileNotFoundError: if no shard has been composed yet.
    """
    torch.manual_seed(options.seed)
    begun = beginning.read_vae(work_dir)
    space = latent_space(work_dir, options.size_px)
    num_channels = len(space.offset)
    vae = build(options, num_channels) if begun is None else begun
    initialise.channels_last(vae)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=options.learning_rate, weight_decay=1e-4, betas=(0.9, 0.99))
    images = _images(work_dir, options.size_px)
    if begun is None:
        begin_as_enlargement(vae.decoder, space.to_rgb(_pixels(images[:200])))
    ema = checkpoint.Ema(vae.state_dict(), 0.995)
    path, stop, step, spent_s = work_dir / "vae.pt", checkpoint.StopRequest(), 0, 0.0
    if path.exists():
        state = checkpoint.load(path)
        vae.load_state_dict(state["vae"])
        optimiser.load_state_dict(state["optimiser"])
        ema.load_state_dict(state["ema"])
        step, spent_s = state["step"], state["spent_s"]
        logger.info("resumed at step %d after %.0f s", step, spent_s)
    started, before_s = time.monotonic(), spent_s
    while spent_s < options.minutes * 60 and step < options.steps and not stop:
        progress = max(spent_s / (options.minutes * 60), step / options.steps)
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / 50)
            group["lr"] = options.learning_rate * warm * (0.03 + 0.97 * (0.5 + 0.5 * math.cos(math.pi * progress)))
        if step % 200 == 0:
            images = _images(work_dir, options.size_px)
        rng = np.random.default_rng((options.seed, step))
        pixels = torch.from_numpy(dataset.crops(images, options.batch, options.crop_px, rng))
        side = options.crop_px // dataset.PATCH_PX
        noise = torch.from_numpy(rng.standard_normal((options.batch, num_channels, side, side), dtype=np.float32))
        loss, l1 = loss_of(vae, space, pixels.to(memory_format=torch.channels_last), options, noise)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        ema.update(vae.state_dict())
        step += 1
        spent_s = before_s + time.monotonic() - started
        if step % 25 == 0:
            logger.info("vae step %d, %.0f s: loss %.4f, L1 %.4f", step, spent_s, float(loss.detach()), l1)
        if step % 100 == 0:
            _save(path, vae, optimiser, ema, step, spent_s)
    _save(path, vae, optimiser, ema, step, spent_s)
    return finish(work_dir, vae, ema, images)


def _save(
    path: Path, vae: AutoencoderKL, optimiser: torch.optim.Optimizer, ema: checkpoint.Ema, step: int, spent_s: float
) -> None:
    state = {"vae": vae.state_dict(), "optimiser": optimiser.state_dict(), "ema": ema.state_dict()}
    checkpoint.save(path, {**state, "step": step, "spent_s": spent_s})


def _pixels(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0)


def _images(work_dir: Path, size_px: int) -> np.ndarray:
    paths = dataset.shards(work_dir, size_px)
    if not paths:
        raise FileNotFoundError(f"no composed scenes in {work_dir}; run the `cutouts` command first")
    return np.concatenate([np.load(path) for path in paths[:8]])


def latent_space(work_dir: Path, size_px: int) -> LatentSpace:
    """Read the run's latent space, or make it: of the autoencoder it begins with, else of the first shards."""
    path = work_dir / "latent_space.safetensors"
    if not path.exists():
        images, begun = _images(work_dir, size_px), beginning.read_vae(work_dir)
        if begun is None:
            space = latents.fit(_pixels(images[:2000]), model.read_size(work_dir, size_px // 8).latent_channels)
        else:
            space = latents.of_encoder(begun, _pixels(images[:300]))
        space.save(path)
    return LatentSpace.load(path)


@torch.no_grad()
def finish(work_dir: Path, vae: AutoencoderKL, ema: checkpoint.Ema, images: np.ndarray) -> Path:
    """Write the averaged weights as a diffusers folder."""
    vae.load_state_dict(ema.shadow)
    vae.eval()
    pixels = _pixels(images[:64])
    encoded = vae.encode(pixels).latent_dist.mean
    error = (vae.decode(encoded).sample - pixels).abs().mean()
    logger.info("latent std %.3f, L1 of whole pictures there and back %.4f", float(encoded.std()), float(error))
    folder = work_dir / "vae"
    vae.save_pretrained(folder)
    return folder
