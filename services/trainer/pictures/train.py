"""From a base and prompted pictures to an adapter that can be drawn with."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import Accelerator

from narrative.registry import ADAPTERS
from services.trainer.artifacts import Result, drop_checkpoints, refuse_foreign_folder, run_folder, whole_folder
from services.trainer.evaluation import gate
from services.trainer.loop import fit
from services.trainer.pictures.adapter import WEIGHTS_NAME, add_adapter, check_layers, save_adapter
from services.trainer.pictures.base import BaseModel
from services.trainer.pictures.config import SCORES, AdapterConfig
from services.trainer.pictures.examples import PictureExamples
from services.trainer.pictures.learner import AdapterLearner
from services.trainer.pictures.text import KeptText
from services.trainer.progress import Progress
from services.trainer.settings import TrainerSettings

_VERSIONS = {"diffusers": diffusers.__version__, "torch": torch.__version__, "transformers": transformers.__version__}


class AdapterResult(Result):
    """What is printed: also the name to draw with, where it was published, and what was measured for that."""

    adapter: str | None = None
    scores: dict[str, float] | None = None
    unmet_requirements: tuple[str, ...] | None = None


def quiet_libraries() -> None:
    """Keeps progress bars and advice of the libraries out of the progress."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def result_folder(config: AdapterConfig) -> Path:
    """Where the adapter goes; without ``output_dir`` it is published besides, usable by name at once.

    Raises:
        Conflict: there is something at its place that no training has written.
    """
    folder = config.output_dir or TrainerSettings().results_folder / config.name
    refuse_foreign_folder(folder)
    return folder


def train_adapter(
    config: AdapterConfig,
    base: BaseModel,
    examples: PictureExamples,
    *,
    accelerator: Accelerator,
    progress: Progress,
    description: Mapping[str, Any],
    train_text_encoder: bool = False,
    text_rate: float | None = None,
) -> AdapterResult:
    """Trains and writes an adapter.

    Args:
        description: what the recipe knows of it (recipe, trigger word); the rest is added.

    Raises:
        NarrativeError: as ``services.trainer.loop.fit`` and ``services.trainer.artifacts.whole_folder``.
    """
    output_dir = result_folder(config)
    requirements = gate.parse(config.require, SCORES)
    run_dir = run_folder(output_dir, config)
    cache_dir = run_dir / f"cache-{accelerator.process_index}"
    data_digests = [kind.source.digest() for kind in examples.kinds]
    check_layers(base, config)
    base.pipeline.to(accelerator.device)
    try:
        kept_text = _encode_once(config, base, examples, accelerator.device, cache_dir, text=not train_text_encoder)
        base.load_denoiser(accelerator.device)
        modules = add_adapter(base, config, seed=config.seed, text_encoders=train_text_encoder)
        if config.gradient_checkpointing:
            _save_memory(base, list(modules))
        if base.denoiser_name == "unet":
            # Convolutions run faster with the channels last, on CPUs and on tensor cores alike.
            base.denoiser.to(memory_format=torch.channels_last)
        learner = AdapterLearner(
            base,
            modules,
            examples.prompts,
            kept_text=kept_text,
            text_rate=text_rate,
            sample_prompt=config.sample_prompt or examples.kinds[0].prompts[0],
            resolution=config.resolution,
            seed=config.seed,
        )
        outcome = fit(
            learner,
            examples,
            config,
            accelerator=accelerator,
            run_dir=run_dir,
            progress=progress,
            identity={"base": base.digest, "data": data_digests},
        )
    finally:
        shutil.rmtree(cache_dir, ignore_errors=True)
    scores: dict[str, float] | None = None
    unmet: tuple[str, ...] = ()
    if requirements and accelerator.is_main_process:
        # Tens of megabytes that a training without requirements need not hold.
        from services.trainer.pictures.measures import measure

        scores = measure(config, base, examples.kinds[0], modules, run_dir / "measured", progress)
        unmet = tuple(gate.unmet(requirements, scores))
    published = config.output_dir is None and not unmet
    if accelerator.is_main_process:
        made_of = {
            **description,
            "name": config.name if config.output_dir is None else output_dir.name,
            "base": base.id,
            "base_digest": base.digest,
            "rank": config.rank,
            "alpha": config.lora_alpha or config.rank,
            "text_encoder": train_text_encoder,
            "licence": config.licence,
            "data_digest": data_digests[0],
            "num_pictures": len(examples),
            "steps": outcome.steps,
            "epochs": outcome.epochs,
            "stopped_early": outcome.stopped_early,
            "final_loss": outcome.final_loss,
            "metrics": scores,
            "settings": config.model_dump(mode="json"),
            "versions": _VERSIONS,
        }
        with whole_folder(output_dir, made_of) as folder:
            save_adapter(base, modules, folder)
        if published:
            # Likewise.
            from services.trainer.publishing import publish

            publish(ADAPTERS, config.name, {WEIGHTS_NAME: output_dir / WEIGHTS_NAME}, made_of)
        drop_checkpoints(run_dir, config)
        progress.note(_how_to_use(config, output_dir, unmet))
    return AdapterResult(
        success=True,
        output_dir=output_dir,
        epochs_completed=outcome.epochs,
        final_loss=outcome.final_loss,
        adapter=config.name if published else None,
        scores=scores,
        unmet_requirements=unmet or None,
    )


def _encode_once(
    config: AdapterConfig,
    base: BaseModel,
    examples: PictureExamples,
    device: torch.device,
    folder: Path,
    *,
    text: bool,
) -> KeptText | None:
    """Latents, and prompts if ``text``, that no training changes; what made them is dropped unless it is to draw."""
    needless = []
    if config.cache_latents and all(kind.crop != "random" for kind in examples.kinds):
        for number, kind in enumerate(examples.kinds):
            kind.keep_latents(folder / f"latents-{number}.npy", base.pipeline.vae)
        needless.append("vae")
    if text:
        needless += [name for name in base.pipeline.components if name.startswith("text_encoder")]
    kept = KeptText(base, examples.prompts, folder, device) if text else None
    if not config.draws:
        base.drop(*needless)
    return kept


def _save_memory(base: BaseModel, names: list[str]) -> None:
    base.denoiser.enable_gradient_checkpointing()
    for name, encoder in base.text_encoders.items():
        if name in names:
            encoder.activation_checkpointing_enable()  # type: ignore[operator]


def _how_to_use(config: AdapterConfig, output_dir: Path, unmet: tuple[str, ...]) -> str:
    if unmet:
        return f"not published: {'; '.join(unmet)}; the adapter is in {output_dir}"
    if config.output_dir is None:
        return f'adapter {config.name} is ready: narrate picture "..." --adapter {config.name}'
    return f"adapter written to {output_dir}; narrate adapters import {output_dir} --name NAME publishes it"
