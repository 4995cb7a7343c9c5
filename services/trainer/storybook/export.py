"""From checkpoints to a StableDiffusionPipeline directory in fp16 safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import CLIPTokenizer

from services.trainer import checkpoint
from services.trainer.storybook import model
from services.trainer.storybook.diffusers_parts import (
    AutoencoderKL,
    StableDiffusionPipeline,
)

DEFAULTS = {"num_inference_steps": 20, "guidance_scale": 3.0, "width": 128, "height": 128}


def load_pipeline(work_dir: Path, size: model.ModelSize | None = None) -> StableDiffusionPipeline:
    """Build the float32 pipeline of a run from its averaged weights.

    Raises:
        FileNotFoundError: if a part of the run is missing.
    """
    for part in ("vae/config.json", "tokenizer/tokenizer_config.json", "text_to_image.pt"):
        if not (work_dir / part).exists():
            raise FileNotFoundError(f"{part} is missing in {work_dir}: train first")
    vae = AutoencoderKL.from_pretrained(work_dir / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(work_dir / "tokenizer")
    size = size or model.read_size(work_dir, vae.config.sample_size // 8)
    both = torch.nn.ModuleDict(
        {"text_encoder": model.build_text_encoder(tokenizer, size), "unet": model.build_unet(size)}
    )
    both.load_state_dict(checkpoint.load(work_dir / "text_to_image.pt")["ema"]["shadow"])
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=both["text_encoder"].eval(),
        tokenizer=tokenizer,
        unet=both["unet"].eval(),
        scheduler=model.inference_schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(work_dir: Path, folder: Path) -> None:
    """Write the pipeline, in half precision, and its defaults (``generation_config.json``) into ``folder``."""
    pipeline = load_pipeline(work_dir).to(torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    # transformers loads in the type the config names, diffusers in float32: without this a plain from_pretrained
    # would mix the two. The file stays in half precision.
    _rewrite(folder / "text_encoder" / "config.json", {"dtype": "float32"})
    # Where the autoencoder lay on the machine that trained it is nobody's business.
    _rewrite(folder / "vae" / "config.json", {}, without="_name_or_path")
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)
    size_px = pipeline.vae.config.sample_size
    defaults = DEFAULTS | {"width": size_px, "height": size_px}
    (folder / "generation_config.json").write_text(json.dumps(defaults, indent=2) + "\n", encoding="utf-8")


def _rewrite(config: Path, changes: dict[str, str], without: str = "") -> None:
    settings = json.loads(config.read_text(encoding="utf-8")) | changes
    settings.pop(without, None)
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
