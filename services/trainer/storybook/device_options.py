"""Settings of a training on an accelerator."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from services.trainer.storybook import model


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """Settings of a run; the defaults are for thirty minutes of an H200 and a model that two CPU cores can serve.

    Attributes:
        scenes: most that the workers compose; 0.2 MB of disk each until they are latents.
        total_s: seconds of training, all chunks together, autoencoder left out; the rate decays towards their end.
        decay_share: share of ``total_s`` in which the rate falls to nothing.
        vae_s: seconds for the autoencoder, in the first chunk.
        reserve_s: seconds before the end of a chunk in which nothing but writing happens.
        kept_shards: shards of 500 scenes that the autoencoder is trained on.
        first_shards: most shards that are made latents before the first step; the rest follows while it trains.
        refresh_steps: how often new scenes are looked for, four shards at a time.
    """

    size_px: int = 256
    text_width: int = 256
    text_layers: int = 4
    unet_channels: tuple[int, ...] = (96, 192, 288)
    vae_channels: tuple[int, ...] = (32, 64, 128, 128)
    latent_channels: int = 4
    head_width: int = 32
    batch: int = 512
    learning_rate: float = 5e-4
    warmup_steps: int = 200
    total_s: float = 1050.0
    decay_share: float = 0.35
    vae_s: float = 200.0
    vae_batch: int = 64
    vae_crop_px: int = 128
    reserve_s: float = 40.0
    caption_dropout: float = 0.1
    min_snr_gamma: float = 5.0
    ema_decay: float = 0.999
    workers: int = 14
    scenes: int = 240_000
    kept_shards: int = 40
    first_shards: int = 80
    refresh_steps: int = 25
    seed: int = 0
    compile: bool = False
    device: str = "cuda"

    def model_size(self) -> model.ModelSize:
        """Return the widths and depths of text encoder and UNet."""
        return model.ModelSize(
            text_width=self.text_width,
            text_layers=self.text_layers,
            unet_channels=self.unet_channels,
            head_width=self.head_width,
            latent_px=self.size_px // 8,
            latent_channels=self.latent_channels,
        )


def from_values(values: dict[str, Any]) -> DeviceOptions:
    """Build options from plain values; lists become tuples, what is no option is passed over."""
    known = {field.name for field in fields(DeviceOptions)}
    kept: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in known
    }
    return DeviceOptions(**kept)


def from_json(text: str) -> DeviceOptions:
    """Read the options that exported weights were trained with."""
    values: dict[str, Any] = json.loads(text)
    return from_values(values)
