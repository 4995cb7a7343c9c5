"""A training on one accelerator lent for minutes: composes, trains and exports against the clock.

One call is a chunk. It starts processes that compose scenes, trains the autoencoder if the run has none yet, then text
encoder and UNet in bf16, and stops by itself in time to write what the next chunk goes on from: all of the state into
the work folder (for the same machine), the averaged weights into small shards (for any other).
"""

from __future__ import annotations

import json
import logging
import math
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from services.trainer.storybook import composing, dataset, device_vae, initialise, model, parts, weight_shards
from services.trainer.storybook.device_options import DeviceOptions, from_json
from services.trainer.storybook.diffusers_parts import StableDiffusionPipeline, UNet2DConditionModel
from services.trainer.storybook.objective import Average, denoising_loss
from services.trainer.storybook.scene_pool import ScenePool

logger = logging.getLogger(__name__)

STATE_FILE = "device_run.pt"


class DivergedError(RuntimeError):
    """The loss is no number any more; nothing is written over the last good state."""


class DeviceRun:
    """What learns, and how far it has come."""

    def __init__(self, work_dir: Path, options: DeviceOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self.work_dir, self.options, self.clock = work_dir, options, clock
        self.device = torch.device(options.device)
        torch.manual_seed(options.seed)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # every step has the same shapes
            torch.set_float32_matmul_precision("high")
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(work_dir / "tokenizer")
        self.tokenizer, self.schedule = tokenizer, model.noise_schedule()
        size = options.model_size()
        self.text_encoder: CLIPTextModel = model.build_text_encoder(tokenizer, size)
        self.unet: UNet2DConditionModel = model.build_unet(size)
        initialise.channels_last(self.unet)
        self.both = torch.nn.ModuleDict({"text_encoder": self.text_encoder, "unet": self.unet}).to(self.device)
        self.vae = device_vae.build(options.vae_channels, options.size_px, options.latent_channels).to(self.device)
        self.vae_ready = False
        self.optimiser = torch.optim.AdamW(
            self.both.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.average = Average(self.both.state_dict(), options.ema_decay)
        self.step, self.begun_at_step, self.spent_s = 0, 0, 0.0
        self._denoiser: Any = torch.compile(self.unet) if options.compile else self.unet
        self._nothing = self._no_caption()

    def _no_caption(self) -> torch.Tensor:
        encoded = self.tokenizer("", padding="max_length", max_length=model.MAX_TOKENS, return_tensors="pt")
        ids: torch.Tensor = encoded.input_ids[0]
        return ids.to(self.device)

    def autocast(self) -> torch.autocast:
        """Return the context that computes in bf16."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def train_vae(self, pool: ScenePool) -> None:
        """Train the autoencoder for the seconds it has; latents mean nothing before that."""
        options = self.options

        def pictures(step: int) -> torch.Tensor:
            return pool.pictures(options.vae_batch, min(options.vae_crop_px, options.size_px), options.seed + step)

        pool.forget_latents()
        device_vae.train(self.vae, pictures, options.vae_s, self.clock, self.autocast)
        self.vae_ready = True

    def advance(self, pool: ScenePool) -> torch.Tensor:
        """Take one step; return its loss, still on the device. All chance comes from (seed, step)."""
        options = self.options
        generator = torch.Generator(self.device).manual_seed(options.seed * 1_000_003 + self.step)
        latents, ids = pool.batch(options.batch, generator)
        dropped = torch.rand(options.batch, generator=generator, device=self.device) < options.caption_dropout
        ids = torch.where(dropped[:, None], self._nothing, ids)
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        shift = torch.rand(options.batch, generator=generator, device=self.device)
        # Stratified: every step sees all noise levels.
        strata = (torch.arange(options.batch, device=self.device) + shift) / options.batch
        timesteps = (strata * self.schedule.config.num_train_timesteps).long()
        with self.autocast():
            states = self.text_encoder(ids).last_hidden_state
            loss = denoising_loss(
                self._denoiser, self.schedule, latents, noise, timesteps, states, options.min_snr_gamma
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.both.parameters(), 1.0)
        self.optimiser.step()
        self.average.update(self.both.state_dict())
        self.step += 1
        return loss.detach()

    def learning_rate(self) -> float:
        """Return the present rate: rises at the start and after a move to another machine, falls at the end."""
        options = self.options
        rise = min(1.0, (self.step - self.begun_at_step + 1) / options.warmup_steps)
        left = 1.0 - self.spent_s / options.total_s
        return options.learning_rate * rise * min(1.0, max(0.01, left / options.decay_share))

    def train(self, pool: ScenePool, until: float) -> None:
        """Train until the clock shows ``until`` or the run's time is spent.

        Raises:
            DivergedError: if the loss is no number any more.
        """
        began, before_s, first = self.clock(), self.spent_s, self.step
        losses: list[torch.Tensor] = []
        while self.clock() < until and self.spent_s < self.options.total_s:
            if self.step % self.options.refresh_steps == 0:
                pool.encode(self.vae, 4, delete=True)
            losses.append(self.advance(pool))
            if self.step % 100 == 0:
                mean = float(torch.stack(losses).mean())  # waits for the device, so that the clock tells the truth
                rate = (self.step - first) / max(1e-9, self.clock() - began)
                losses.clear()
                if not math.isfinite(mean):
                    raise DivergedError(f"no finite loss at step {self.step}; lower --learning-rate")
                logger.info("step %d: loss %.4f, %.1f steps/s, %d scenes", self.step, mean, rate, len(pool))
            self.spent_s = before_s + self.clock() - began

    def save(self) -> None:
        """Write all of the state, for a chunk on the same machine."""
        state = {
            "both": self.both.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.shadow,
            "updates": self.average.updates,
            "vae": self.vae.state_dict(),
            "scaling_factor": self.vae.config.scaling_factor,
            "step": self.step,
            "begun_at_step": self.begun_at_step,
            "spent_s": self.spent_s,
        }
        temporary = self.work_dir / "device_run.tmp"
        torch.save(state, temporary)
        temporary.replace(self.work_dir / STATE_FILE)

    def resume(self) -> None:
        """Go on from ``save``, exactly."""
        state = torch.load(self.work_dir / STATE_FILE, map_location=self.device, weights_only=True)
        self.both.load_state_dict(state["both"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.shadow, self.average.updates = state["average"], state["updates"]
        self._take_vae(state["vae"], state["scaling_factor"])
        self.step, self.begun_at_step, self.spent_s = state["step"], state["begun_at_step"], state["spent_s"]

    def export(self, folder: Path) -> list[Path]:
        """Write the averaged weights into shards."""
        tensors = {f"average.{_portable(name)}": value for name, value in self.average.shadow.items()}
        tensors |= {f"vae.{name}": value for name, value in self.vae.state_dict().items()}
        about = {
            "options": json.dumps(asdict(self.options)),
            "edition": dataset.EDITION,
            "step": str(self.step),
            "spent_s": repr(self.spent_s),
            "scaling_factor": repr(self.vae.config.scaling_factor),
        }
        return weight_shards.write(folder, tensors, about)

    def resume_from_shards(self, folder: Path) -> None:
        """Go on from ``export`` of this run on another machine: from the average, with a fresh optimiser.

        Raises:
            ShardError: if the shards are damaged or of a model of another shape.
        """
        tensors, about = weight_shards.read(folder)
        try:
            _load(self.both, _under(tensors, "average."))
            self._take_vae(_under(tensors, "vae."), float(about["scaling_factor"]))
        except (KeyError, RuntimeError) as error:
            raise weight_shards.ShardError(f"{folder} holds a model of another shape: {error}") from error
        self.average = Average(self.both.state_dict(), self.options.ema_decay)
        self.step, self.spent_s = int(about["step"]), float(about["spent_s"])
        self.begun_at_step = self.step

    def _take_vae(self, weights: dict[str, torch.Tensor], scaling_factor: float) -> None:
        self.vae.load_state_dict(weights)
        self.vae.register_to_config(scaling_factor=scaling_factor)
        self.vae.eval()
        self.vae_ready = True

    def pipeline(self) -> StableDiffusionPipeline:
        """Return the averaged models as a pipeline. The run must have been saved: it cannot train on afterwards."""
        self.both.load_state_dict(self.average.shadow)
        self.both.eval()
        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.both["text_encoder"],
            tokenizer=self.tokenizer,
            unet=self.both["unet"],
            scheduler=model.inference_schedule(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def _portable(name: str) -> str:
    """Return a weight's name without what versions of transformers disagree about: a text encoder's inner prefix."""
    return name.replace("text_encoder.text_model.", "text_encoder.")


def _load(both: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    both.load_state_dict({name: weights[_portable(name)] for name in both.state_dict()})


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor.float() for name, tensor in tensors.items() if name.startswith(prefix)}


def assemble(shards: Path, work_dir: Path) -> None:
    """Turn exported shards into what the `export` command reads: ``vae``, ``text_to_image.pt``, ``model_size.json``.

    Raises:
        ShardError: if the shards are damaged or incomplete.
        FileNotFoundError: if ``work_dir`` lacks the tokenizer of the run.
    """
    _, about = weight_shards.read(shards)
    options = from_json(about["options"])
    if not (work_dir / "tokenizer" / "tokenizer.json").exists():
        raise FileNotFoundError(f"no tokenizer in {work_dir}: unpack or pack the archive of this run there first")
    run = DeviceRun(work_dir, replace(options, device="cpu", compile=False))
    run.resume_from_shards(shards)
    run.vae.save_pretrained(work_dir / "vae")
    torch.save({"ema": {"shadow": run.average.shadow, "updates": 0}, "step": run.step}, work_dir / "text_to_image.pt")
    (work_dir / "model_size.json").write_text(json.dumps(asdict(options.model_size())), encoding="utf-8")


def run_chunk(
    work_dir: Path,
    options: DeviceOptions,
    for_s: float,
    out: Path,
    *,
    archive: Path | None = None,
    shards: Path | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> DeviceRun:
    """Do one chunk of at most ``for_s`` seconds and write its shards into ``out``.

    Args:
        archive: what ``parts.pack`` wrote; needed where there is no network and no unpacked archive.
        shards: weights to go on from, where ``work_dir`` holds no state of its own.

    Raises:
        ValueError: if ``for_s`` leaves no time to train.
    """
    started = clock()
    if for_s <= options.reserve_s + options.vae_s:
        raise ValueError(f"{for_s:.0f} s are not enough: {options.vae_s:.0f} s go to the autoencoder and "
                         f"{options.reserve_s:.0f} s to writing")  # fmt: skip
    if archive is not None:
        parts.unpack(archive, work_dir)
    dataset.check_edition(work_dir)
    workers = composing.start(work_dir, options.size_px, options.workers, options.scenes)
    try:
        run = DeviceRun(work_dir, options, clock)
        if (work_dir / STATE_FILE).exists():
            run.resume()
            logger.info("goes on at step %d of this machine", run.step)
        elif shards is not None:
            run.resume_from_shards(shards)
            logger.info("goes on at step %d of %s", run.step, shards)
        pool = ScenePool(work_dir, options.size_px, run.device, options.kept_shards)
        pool.wait(1, for_s / 2)
        if not run.vae_ready:
            run.train_vae(pool)
            run.save()
        logger.info("%d scenes at %.0f s", pool.encode(run.vae, options.first_shards, delete=True), clock() - started)
        run.train(pool, started + for_s - options.reserve_s)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            _reap(worker)
    paths = run.export(out)
    run.save()
    logger.info("step %d after %.0f s of training, %d shards written", run.step, run.spent_s, len(paths))
    return run


def _reap(worker: subprocess.Popen[bytes]) -> None:
    try:
        worker.wait(10)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
