"""The pix2pix recipe: the whole UNet is trained, on latents and instructions that are computed once."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionInstructPix2PixPipeline

from narrative.registry import PICTURE_MODELS
from services.trainer.artifacts import Result, drop_checkpoints, refuse_foreign_folder, run_folder, whole_folder
from services.trainer.ending import is_at_its_end
from services.trainer.loop import fit, make_accelerator
from services.trainer.memory import give_back_large_blocks
from services.trainer.pictures.base import BaseModel, load_base
from services.trainer.pictures.edit_learner import EditExamples, EditLearner, widen_input
from services.trainer.pictures.edits import (
    EditSource,
    arrow_video_edits,
    check_edits,
    folder_edits,
    hub_edits,
    video_edits,
)
from services.trainer.pictures.images import square
from services.trainer.pictures.text import KeptText
from services.trainer.pictures.train import quiet_libraries
from services.trainer.progress import Progress
from services.trainer.recipes.pix2pix.config import Config

# Not needed between the caching of what they make and the writing of the result.
_ENCODERS = ("vae", "text_encoder")


class EditingResult(Result):
    """What is printed: also the name to edit with, where it was published."""

    published: str | None = None


def run(config: Config, progress: Progress) -> EditingResult:
    """Trains the model.

    Raises:
        NarrativeError: bad data, an unknown base, no memory, a full disk; nothing is written then.
    """
    quiet_libraries()
    give_back_large_blocks()
    assert config.output_dir is not None, "the configuration checks it"
    refuse_foreign_folder(config.output_dir)
    source = _source(config, config.data_dir)
    held_out = _source(config, config.validation_data_dir) if config.validation_data_dir else None
    for edits in filter(None, (source, held_out)):
        check_edits(edits, config.min_image_px)
    beside = f", {len(held_out)} held out" if held_out else ""
    progress.note(f"{len(source)} edits{beside}")
    accelerator = make_accelerator(config)
    encoders_stay = bool(config.sample_steps or not config.cache_latents)
    # The UNet is trained, so its weights stay in float32 whatever the computation's precision.
    base = load_base(config.model_id, ["sd", "pix2pix"], "no", denoiser_later=not encoders_stay)
    base.pipeline.to(accelerator.device)
    examples = EditExamples(source, config.resolution, held_out)
    validation = EditExamples(held_out, config.resolution, source) if held_out else None
    run_dir = run_folder(config.output_dir, config)
    cache_dir = run_dir / f"cache-{accelerator.process_index}"
    try:
        kept_text = KeptText(base, examples.prompts, cache_dir, accelerator.device)
        # A training that is at its end already, and is only to be written or published, has no use for latents.
        if config.cache_latents and not is_at_its_end(config, len(examples), accelerator, run_dir):
            for kept, folder in ((examples, cache_dir), (validation, cache_dir / "held-out")):
                if kept:
                    kept.keep_latents(folder, base.pipeline.vae)
        if not encoders_stay:
            base.drop(*_ENCODERS)
        base.load_denoiser(accelerator.device)
        _make_editing(base, config.num_frames)
        if config.gradient_checkpointing:
            base.denoiser.enable_gradient_checkpointing()
        learner = EditLearner(base, kept_text, config.conditioning_dropout_prob)
        if validation:
            learner.validate_on(validation, config.train_batch_size, config.seed)
        if config.sample_steps:
            original = square(source.frames(0)[0], config.resolution, "stretch")
            learner.sample_with(original, config.sample_prompt or source.instruction(0), config.seed)
        outcome = fit(
            learner,
            examples,
            config,
            accelerator=accelerator,
            run_dir=run_dir,
            progress=progress,
            identity={"base": base.digest, "data": source.digest()},
        )
    finally:
        shutil.rmtree(cache_dir, ignore_errors=True)
    if accelerator.is_main_process:
        made_of = {
            "recipe": "pix2pix",
            "base": base.id,
            "base_digest": base.digest,
            "num_frames": config.num_frames,
            "licence": config.licence,
            "data_digest": source.digest(),
            "num_edits": len(source),
            "steps": outcome.steps,
            "epochs": outcome.epochs,
            "final_loss": outcome.final_loss,
            "settings": config.model_dump(mode="json"),
        }
        if base.pipeline.vae is None:
            own = load_base(config.model_id, ["sd", "pix2pix"], "no", denoiser_later=True).pipeline
            base.pipeline.register_modules(**{name: getattr(own, name) for name in _ENCODERS})
        with whole_folder(config.output_dir, made_of) as folder:
            _save(base, config, folder)
        if config.publish_as:
            # Megabytes that a training need not hold.
            from services.trainer.publishing import publish

            files = {file.relative_to(config.output_dir).as_posix(): file for file in _files(config.output_dir)}
            publish(PICTURE_MODELS, config.publish_as, files, made_of)
            progress.note(f'model {config.publish_as} is ready: narrate edit "..." PICTURE --model {config.publish_as}')
        else:
            progress.note(f"model written to {config.output_dir}")
        drop_checkpoints(run_dir, config)
    return EditingResult(
        success=True,
        output_dir=config.output_dir,
        epochs_completed=outcome.epochs,
        final_loss=outcome.final_loss,
        published=config.publish_as or None,
    )


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _source(config: Config, folder: Path | None) -> EditSource:
    columns = (config.input_column, config.prompt_column, config.edited_column)
    if folder is None:
        return hub_edits(config.dataset_name, config.dataset_split, columns)
    if config.num_frames > 1:
        built = (folder / "state.json").is_file()
        return (arrow_video_edits if built else video_edits)(folder, config.num_frames)
    return folder_edits(folder, columns)


def _make_editing(base: BaseModel, num_frames: int) -> None:
    """Has the UNet see the frames beside the noise, and be trained; the pipeline becomes one that edits."""
    widen_input(base.denoiser, base.autoencoder_config["latent_channels"] * (1 + num_frames))
    # Convolutions run faster with the channels last, on CPUs and on tensor cores alike.
    base.denoiser.requires_grad_(True).to(memory_format=torch.channels_last)
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "feature_extractor")
    pipeline_class: Any = StableDiffusionInstructPix2PixPipeline
    base.pipeline = pipeline_class(
        **{name: base.pipeline.components[name] for name in names}, safety_checker=None, requires_safety_checker=False
    )
    base.pipeline.set_progress_bar_config(disable=True)


def _save(base: BaseModel, config: Config, folder: Path) -> None:
    base.pipeline.save_pretrained(folder, safe_serialization=True)
    own = {
        "num_inference_steps": base.num_steps,
        "guidance_scale": base.guidance_scale,
        "image_guidance_scale": 1.5,
        "width": config.resolution,
        "height": config.resolution,
    }
    (folder / "generation_config.json").write_text(f"{json.dumps(own, indent=2)}\n", encoding="utf-8")
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)
