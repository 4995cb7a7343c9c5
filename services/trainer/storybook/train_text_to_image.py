"""Captions to latents: the text encoder and the UNet, trained together.

A plain loop: latents are computed once, so a step is only the two models that learn. Everything random in a
step comes from (seed, step), so a run that was stopped and resumed is the same as one that was not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from services.trainer import checkpoint
from services.trainer.storybook import beginning, dataset, initialise, model, parallel
from services.trainer.storybook.diffusers_parts import DDPMScheduler, UNet2DConditionModel
from services.trainer.storybook.objective import denoising_loss
from services.trainer.storybook.plan import Planner
from services.trainer.storybook.train_vae import latent_space

logger = logging.getLogger(__name__)


class Captions(Protocol):
    """Where captions come from, by the seed of a scene."""

    def caption(self, seed: int, wording: int) -> str:
        """Return one wording."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Settings of a text-to-image training.

    Attributes:
        subject_weight: by how much a cell that things cover counts more than one of the ground, which is most of them.
        bf16: compute products and convolutions in bfloat16 (weights and optimiser stay float32); half the time where
            the processor has instructions for it, several times as much where it has not.
    """

    steps: int = 4000
    batch: int = 24
    learning_rate: float = 6e-4
    warmup_steps: int = 100
    decay_steps: int = 800
    caption_dropout: float = 0.1
    min_snr_gamma: float = 5.0
    subject_weight: float = 0.0
    bf16: bool = False
    ema_decay: float = 0.998
    save_every: int = 100
    seed: int = 0


class Trainer:
    """Holds what learns, steps it, saves it and goes on from what was saved."""

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        size: model.ModelSize,
        latents: torch.Tensor,
        seeds: np.ndarray,
        captions: Captions,
        options: TrainOptions,
        cover: torch.Tensor | None = None,
    ) -> None:
        """Make what learns.

        Args:
            latents: float (n, 4, h, w), scaled to a standard deviation of 1.
            seeds: int (n,), their scenes.
            cover: uint8 (n, h, w), what part of a cell things cover, of 255; for ``subject_weight``.
        """
        torch.manual_seed(options.seed)
        self.tokenizer, self.captions, self.options = tokenizer, captions, options
        self.latents, self.seeds, self.cover = latents, seeds, cover
        self.text_encoder: CLIPTextModel = model.build_text_encoder(tokenizer, size)
        self.unet: UNet2DConditionModel = model.build_unet(size)
        initialise.channels_last(self.unet)
        # Of 16 to 77 places: the fused kernel of a CPU takes longer for them than plain products, above all backwards.
        self.unet.set_attn_processor(AttnProcessor())
        self.text_encoder.set_attn_implementation("eager")
        self.both = torch.nn.ModuleDict({"text_encoder": self.text_encoder, "unet": self.unet})
        self.schedule: DDPMScheduler = model.noise_schedule()
        self.optimiser = torch.optim.AdamW(
            self.both.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.ema = checkpoint.Ema(self.both.state_dict(), options.ema_decay)
        self.step = 0
        self.stopping = False

    def batch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return latents, noise, timesteps, token ids and weights of the cells of the present step."""
        options = self.options
        rng = np.random.default_rng((options.seed, self.step))
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + self.step)
        chosen = rng.integers(0, len(self.latents), options.batch)
        texts = [
            ""
            if rng.random() < options.caption_dropout
            else self.captions.caption(int(self.seeds[i]), int(rng.integers(1000)))
            for i in chosen
        ]
        latents = self.latents[torch.from_numpy(chosen)].float()
        noise = torch.randn(latents.shape, generator=generator)
        # Stratified over the batch: every step sees all noise levels, which steadies the gradient of small batches.
        strata = (torch.arange(options.batch) + torch.rand(options.batch, generator=generator)) / options.batch
        timesteps = (strata * self.schedule.config.num_train_timesteps).long()
        return latents, noise, timesteps, tokenise(self.tokenizer, texts), self._cell_weights(torch.from_numpy(chosen))

    def advance(self, *, stop: bool = False) -> float:
        """Take one step; return its loss. ``stopping`` is true afterwards if any process was asked to ``stop``."""
        part = slice(parallel.rank(), None, parallel.world_size())
        latents, noise, timesteps, ids, weights = (tensor[part] for tensor in self.batch())
        gamma = self.options.min_snr_gamma
        with torch.autocast("cpu", torch.bfloat16, enabled=self.options.bf16):
            states = self.text_encoder(ids).last_hidden_state
            loss = denoising_loss(self.unet, self.schedule, latents, noise, timesteps, states, gamma, weights)
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        mean_loss, self.stopping = parallel.share(self.both.parameters(), float(loss.detach()), stop)
        torch.nn.utils.clip_grad_norm_(self.both.parameters(), 1.0)
        self.optimiser.step()
        self.ema.update(self.both.state_dict())
        self.step += 1
        return mean_loss

    def _cell_weights(self, chosen: torch.Tensor) -> torch.Tensor:
        """Float (n, 1, h, w); their mean is 1 in every picture, so that one of many things counts no more."""
        if self.cover is None:
            return torch.ones(len(chosen), 1, 1, 1)
        weights = 1 + self.options.subject_weight / 255 * self.cover[chosen, None].float()
        return weights / weights.mean(dim=(1, 2, 3), keepdim=True)

    def _learning_rate(self) -> float:
        options = self.options
        rise = min(1.0, (self.step + 1) / options.warmup_steps)
        fall = min(1.0, max(0.02, (options.steps - self.step) / max(1, options.decay_steps)))
        return options.learning_rate * rise * fall

    def save(self, path: Path) -> None:
        """Write everything a resumed run needs."""
        state: dict[str, Any] = {"both": self.both.state_dict(), "optimiser": self.optimiser.state_dict()}
        checkpoint.save(path, {**state, "ema": self.ema.state_dict(), "step": self.step})

    def begin_with(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Start with the weights of another run instead of random ones."""
        self.both.load_state_dict(weights)
        self.ema = checkpoint.Ema(self.both.state_dict(), self.options.ema_decay)

    def resume(self, path: Path) -> None:
        """Go on from a file of ``save``."""
        state = checkpoint.load(path)
        self.both.load_state_dict(state["both"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.ema.load_state_dict(state["ema"])
        self.step = int(state["step"])


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Return int64 (n, 77) ids, padded and cut the way StableDiffusionPipeline does it."""
    encoded = tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    ids: torch.Tensor = encoded.input_ids
    return ids


@torch.no_grad()
def encode_shards(work_dir: Path, size_px: int) -> tuple[torch.Tensor, np.ndarray]:
    """Return latents, float16 (n, 4, size/8, size/8), and seeds of all shards; latents are kept beside them.

    Raises:
        FileNotFoundError: if there is no shard.
    """
    space = latent_space(work_dir, size_px)
    parts, seeds = [], []
    for path in dataset.shards(work_dir, size_px):
        kept = work_dir / "latents" / path.name
        if not kept.exists() or kept.stat().st_mtime < path.stat().st_mtime:
            pixels = torch.from_numpy(np.load(path).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0)
            kept.parent.mkdir(parents=True, exist_ok=True)
            temporary = kept.with_suffix(".tmp")
            with temporary.open("wb") as file:
                np.save(file, space.encode(pixels).half().numpy())
            temporary.rename(kept)  # half a file would be taken for all of it
        parts.append(torch.from_numpy(np.load(kept)))
        seeds += list(dataset.seeds_of(path))
    return torch.cat(parts), np.array(seeds)


def read_cover(work_dir: Path, size_px: int) -> torch.Tensor:
    """Return what part of each cell things cover, uint8 (n, size/8, size/8), in the order of ``encode_shards``.

    Raises:
        FileNotFoundError: if a shard was composed before this was kept.
    """
    paths = [dataset.cover_path(path) for path in dataset.shards(work_dir, size_px)]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing; compose the scenes anew, or train without --subject-weight")
    return torch.cat([torch.from_numpy(np.load(path)) for path in paths])


def make_tokenizer(work_dir: Path, captions: Captions, seeds: Iterable[int]) -> CLIPTokenizer:
    """Read the run's tokenizer, or train it on captions."""
    folder = work_dir / "tokenizer"
    if (folder / "tokenizer_config.json").exists():
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
        return tokenizer
    return model.train_tokenizer((captions.caption(seed, 0) for seed in seeds), folder)


def prepare(work_dir: Path, size_px: int) -> None:
    """Write what several processes of ``train`` would otherwise write at once: latents and tokenizer.

    Raises:
        EditionError: if the scenes are those of another edition of the planner.
        FileNotFoundError: if there is no scene.
    """
    dataset.check_edition(work_dir)
    encode_shards(work_dir, size_px)
    make_tokenizer(work_dir, dataset.CaptionBook(Planner(dataset.known(work_dir))), range(20_000))


def train(work_dir: Path, size_px: int, options: TrainOptions, size: model.ModelSize | None = None) -> Path:
    """Train up to ``options.steps`` steps, resuming from the run's checkpoint; return the checkpoint.

    SIGTERM saves and returns; the log carries one line every 25 steps.

    Raises:
        EditionError: if the scenes are those of another edition of the planner.
    """
    dataset.check_edition(work_dir)
    captions = dataset.CaptionBook(Planner(dataset.known(work_dir)))
    latents, seeds = encode_shards(work_dir, size_px)
    cover = read_cover(work_dir, size_px) if options.subject_weight else None
    tokenizer = make_tokenizer(work_dir, captions, range(20_000))
    size = size or model.read_size(work_dir, size_px // 8)
    trainer = Trainer(tokenizer, size, latents, seeds, captions, options, cover)
    path, start = work_dir / "text_to_image.pt", beginning.start_path(work_dir)
    if path.exists():
        trainer.resume(path)
        logger.info("resumed at step %d", trainer.step)
    elif start.exists():
        trainer.begin_with(checkpoint.load(start))
        logger.info("begun with %s", start)
    logger.info("%d scenes, %.1f M parameters", len(seeds), sum(p.numel() for p in trainer.both.parameters()) / 1e6)
    stop, started = checkpoint.StopRequest(), time.monotonic()
    losses: list[float] = []
    while trainer.step < options.steps and not trainer.stopping:
        losses.append(trainer.advance(stop=bool(stop)))
        if parallel.rank() != 0:
            continue
        if trainer.step % 25 == 0:
            speed = (time.monotonic() - started) / len(losses)
            logger.info("step %d: loss %.4f, %.2f s a step", trainer.step, float(np.mean(losses[-25:])), speed)
        if trainer.step % options.save_every == 0:
            trainer.save(path)
    if parallel.rank() == 0:
        trainer.save(path)
    return path
