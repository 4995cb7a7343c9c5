"""The scenes a device run has so far: composed by workers while it trains, kept on the device as latents."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from services.trainer.storybook import composing, dataset
from services.trainer.storybook.diffusers_parts import AutoencoderKL

_READ_AHEAD = 8
"""Most shards that are read before they are needed."""


class ScenePool:
    """Reads shards as they appear, each once, in order of arrival; a picture that became a latent may be deleted."""

    def __init__(self, work_dir: Path, size_px: int, device: torch.device, kept_shards: int) -> None:
        """Args: kept_shards: how many shards stay as pictures, for the autoencoder."""
        self._work_dir, self._size_px, self._device, self._kept_shards = work_dir, size_px, device, kept_shards
        self._encoded: set[Path] = set()
        self._pictures: dict[Path, torch.Tensor] = {}
        self._latents: list[torch.Tensor] = []
        self._tokens: list[torch.Tensor] = []
        self._reader = ThreadPoolExecutor(1)
        self._read_ahead: dict[Path, Future[np.ndarray]] = {}

    def __len__(self) -> int:
        """Return how many scenes there are as latents."""
        return sum(len(part) for part in self._latents)

    def wait(self, shards: int, seconds: float) -> None:
        """Wait for the first shards.

        Raises:
            TimeoutError: if fewer come in ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while len(self._ready()) < shards:
            if time.monotonic() > deadline:
                raise TimeoutError(f"fewer than {shards} shards of scenes in {seconds:.0f} s: are the workers alive?")
            time.sleep(0.05)

    def pictures(self, count: int, crop_px: int, seed: int) -> torch.Tensor:
        """Return float32 (count, 3, crop, crop) in [-1, 1]: random squares, all of a call from one shard."""
        for path in self._ready()[: self._kept_shards]:
            if path not in self._pictures and path.exists():
                pixels = torch.from_numpy(np.load(path)).to(self._device)
                self._pictures[path] = pixels.permute(0, 3, 1, 2).contiguous()
                break  # one a call, so that no step waits long
        rng = np.random.default_rng(seed)
        shard = list(self._pictures.values())[rng.integers(len(self._pictures))]
        chosen = torch.from_numpy(rng.integers(0, len(shard), count)).to(self._device)
        top, left = (int(rng.integers(0, side - crop_px + 1)) for side in shard.shape[2:])
        return shard[chosen, :, top : top + crop_px, left : left + crop_px].float() / 127.5 - 1.0

    @torch.no_grad()
    def encode(self, vae: AutoencoderKL, most: int, *, delete: bool) -> int:
        """Turn at most ``most`` new shards into latents of unit variance; return how many scenes there are.

        Latents of an earlier chunk are only read. Args: delete: remove the pictures afterwards, which fill a disk
        quickly; their latents are kept beside them.
        """
        wanted_ahead = most if most <= _READ_AHEAD else 0
        self._pictures.clear()
        for path in [path for path in self._ready() if path not in self._encoded]:
            kept = self._latents_path(path)
            if not kept.exists():
                if most <= 0:
                    continue
                most -= 1
                ahead = self._read_ahead.pop(path, None)
                pixels = torch.from_numpy(np.load(path) if ahead is None else ahead.result())
                parts = [self._latents_of(vae, pixels[k : k + 100]) for k in range(0, len(pixels), 100)]
                kept.parent.mkdir(parents=True, exist_ok=True)
                np.save(kept, torch.cat(parts).cpu().numpy())
                if delete:
                    path.unlink()
            self._latents.append(torch.from_numpy(np.load(kept)).to(self._device))
            self._tokens.append(torch.from_numpy(np.load(composing.tokens_path(path))).to(self._device))
            self._encoded.add(path)
        # What comes next is read while the device trains.
        coming = [path for path in self._ready() if path not in self._encoded and path.exists()]
        for path in coming[:wanted_ahead]:
            if path not in self._read_ahead:
                self._read_ahead[path] = self._reader.submit(np.load, path)
        return len(self)

    def forget_latents(self) -> None:
        """Remove latents of earlier autoencoders."""
        for path in (self._work_dir / "latents").glob(f"{self._size_px}px-*.npy"):
            path.unlink()

    def _latents_of(self, vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
        images = pixels.to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        with torch.autocast(self._device.type, torch.bfloat16):
            latents: torch.Tensor = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
        return latents.half()

    def _latents_path(self, pictures: Path) -> Path:
        return self._work_dir / "latents" / pictures.name

    def batch(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return random latents, float32 (count, 4, h, w), and one caption of each, int64 (count, 77)."""
        if len(self._latents) > 1:
            self._latents, self._tokens = [torch.cat(self._latents)], [torch.cat(self._tokens)]
        latents, tokens = self._latents[0], self._tokens[0]
        chosen = torch.randint(len(latents), (count,), generator=generator, device=self._device)
        wording = torch.randint(tokens.shape[1], (count,), generator=generator, device=self._device)
        return latents[chosen].float(), tokens[chosen, wording].long()

    def _ready(self) -> list[Path]:
        """Return the shards whose captions are there, as pictures or already as latents, in order."""
        pictures = dataset.shard_path(self._work_dir, self._size_px, 0).parent
        names = sorted(path.name for path in (self._work_dir / "tokens").glob(f"{self._size_px}px-*.npy"))
        paths = [pictures / name for name in names]
        return [path for path in paths if path.exists() or self._latents_path(path).exists()]
