"""What an adapter is worth: pictures drawn with it and without it, measured against those that it learned from."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from services.trainer.batches import stream_seed
from services.trainer.evaluation.gate import parse
from services.trainer.evaluation.pictures import Judges, score_pictures
from services.trainer.pictures.base import BaseModel
from services.trainer.pictures.config import METRICS, SCORES, AdapterConfig, Crop
from services.trainer.pictures.examples import PromptedPictures
from services.trainer.pictures.images import square
from services.trainer.progress import Progress


def measure(
    config: AdapterConfig,
    base: BaseModel,
    learned: PromptedPictures,
    modules: Mapping[str, nn.Module],
    folder: Path,
    progress: Progress,
) -> dict[str, float]:
    """Draws the prompts that were learned, with equal seeds with and without the adapter, and scores both.

    Only what the requirements name is measured, so that no judge is needed that nobody asked for.

    Args:
        modules: what carries the adapter, by name.
        folder: for the pictures; kept, so that people can look at what was measured.

    Returns:
        Scores by name; ``NAME_gain`` is the score with the adapter less that without.

    Raises:
        WeightsError, ModelNotFound: a judge is not here.
    """
    wanted = {requirement.score.removesuffix("_gain") for requirement in parse(config.require, SCORES)}
    shutil.rmtree(folder, ignore_errors=True)
    prompts = [learned.prompts[index % len(learned)] for index in range(config.measured_pictures)]
    crop: Crop = "centre" if learned.crop == "random" else learned.crop
    real = folder / "real"
    real.mkdir(parents=True)
    for index in range(len(learned)):
        picture = square(learned.source.picture(index), config.resolution, crop)
        picture.save(real / f"{index:05d}.png")
    lines = folder / "prompts.txt"
    lines.write_text("".join(f"{' '.join(prompt.split())}\n" for prompt in prompts), encoding="utf-8")
    metrics = [metric for metric in METRICS if metric in wanted]
    judges = Judges(config.clip_model, config.dino_model, config.feature_model, "")
    scores: dict[str, dict[str, float]] = {}
    for name in ("base", "adapter"):
        drawn = folder / name
        drawn.mkdir()
        with without_adapter(modules) if name == "base" else nullcontext():
            _draw(config, base, prompts, drawn)
        scores[name] = score_pictures(
            drawn, real, lines, metrics, judges, seed=config.seed, report=lambda _: None
        ).scores
    with_it, without = scores["adapter"], scores["base"]
    found = {**with_it, **{f"{metric}_gain": with_it[metric] - without[metric] for metric in with_it}}
    shown = ", ".join(f"{name} {score:.3f}" for name, score in found.items())
    progress.note(f"measured on {len(prompts)} pictures: {shown}", scores=found)
    return found


@contextmanager
def without_adapter(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Turns the adapter off for as long as the block runs."""
    carriers: list[Any] = list(modules.values())
    for module in carriers:
        module.disable_adapters()
    try:
        yield
    finally:
        for module in carriers:
            module.enable_adapters()


def _draw(config: AdapterConfig, base: BaseModel, prompts: list[str], folder: Path) -> None:
    """One picture at a time: what fits into memory while it is trained fits then."""
    device = base.denoiser.device
    for index, prompt in enumerate(prompts):
        generator = torch.Generator("cpu").manual_seed(stream_seed(config.seed, "measure", index))
        autocast = torch.autocast(device.type, dtype=base.dtype, enabled=base.dtype != torch.float32)
        with torch.inference_mode(), autocast:
            image = base.pipeline(
                prompt,
                num_inference_steps=base.num_steps,
                guidance_scale=base.guidance_scale,
                width=config.resolution,
                height=config.resolution,
                generator=generator,
            ).images[0]
        image.save(folder / f"{index:05d}.png")
