"""Reads what a diffusers folder says about itself, without loading a single weight."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from narrative.errors import WeightsError, WeightsMissing
from services.diffusion.engine import Task
from services.diffusion.safetensors_header import Shapes, read_shapes

Family = Literal["sd", "sdxl", "flux", "pix2pix"]

# Schedulers whose only randomness comes from the generators they are handed, so that a seed gives one picture.
EPSILON_SCHEDULERS = (
    "DDIM", "DDPM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "EulerAncestralDiscrete",
    "EulerDiscrete", "HeunDiscrete", "KDPM2Discrete", "LMSDiscrete", "PNDM", "UniPCMultistep",
)  # fmt: skip


@dataclass(frozen=True)
class _Kind:
    family: Family
    task: Task
    denoiser: str
    num_steps: int
    guidance_scale: float
    size_multiple: int
    schedulers: tuple[str, ...]


# Defaults of the pipeline classes themselves, for models that bring no generation_config.json.
_KINDS = {
    "StableDiffusionPipeline": _Kind("sd", "text-to-image", "unet", 30, 7.5, 8, EPSILON_SCHEDULERS),
    "StableDiffusionXLPipeline": _Kind("sdxl", "text-to-image", "unet", 30, 5.0, 8, EPSILON_SCHEDULERS),
    "FluxPipeline": _Kind("flux", "text-to-image", "transformer", 28, 3.5, 16, ("FlowMatchEulerDiscrete",)),
    "StableDiffusionInstructPix2PixPipeline": _Kind("pix2pix", "image-editing", "unet", 30, 7.5, 8, EPSILON_SCHEDULERS),
}
# A model is drawn at up to this many times its own side: beyond it repeats itself, and the time grows with the area.
_MAX_ENLARGEMENT = 2


@dataclass(frozen=True)
class ModelCard:
    """What requests to a model are checked against.

    Attributes:
        width: default width, pixels; ``height`` likewise.
        max_side: greatest width and height, pixels.
        size_multiple: widths and heights are multiples of this many pixels.
        schedulers: class names without "Scheduler".
        shapes: parameter shapes by component, to tell whether an adapter fits.
        digest: of all the files of its catalogue entry; empty for a folder of one's own.
        num_frames: pictures that an edit begins with; one, or the frames of a video.
    """

    id: str
    path: Path
    family: Family
    task: Task
    denoiser: str
    width: int
    height: int
    max_side: int
    size_multiple: int
    num_steps: int
    guidance_scale: float
    image_guidance_scale: float
    scheduler: str
    schedulers: tuple[str, ...]
    licence: str = ""
    digest: str = ""
    num_frames: int = 1
    shapes: Mapping[str, Shapes] = field(default_factory=dict, repr=False, compare=False)


def read_card(model_id: str, path: Path, *, licence: str = "", digest: str = "") -> ModelCard:
    """Reads ``model_index.json``, the configurations it names and ``generation_config.json`` if there is one.

    The last may hold num_inference_steps, guidance_scale, image_guidance_scale, width, height and max_size (pixels).

    Raises:
        WeightsMissing: no diffusers folder, or no safetensors weights in it.
        WeightsError: a pipeline class this service cannot run.
    """
    index = _read_json(path / "model_index.json")
    kind = _KINDS.get(str(index.get("_class_name")))
    if kind is None:
        raise WeightsError(
            f"{path}: pipeline class {index.get('_class_name')!r} cannot be run; this service runs {', '.join(_KINDS)}"
        )
    components = {
        name: spec for name, spec in index.items() if isinstance(spec, list) and len(spec) == 2 and spec[0] is not None
    }
    for name, (library, _) in components.items():
        # Anything else would make diffusers import code from beside the weights.
        if library not in ("diffusers", "transformers", "stable_diffusion"):
            raise WeightsError(f"{path}: component {name} comes from {library!r}; only diffusers and transformers may")
    own = _read_json(path / "generation_config.json") if (path / "generation_config.json").is_file() else {}
    side = _native_side(path, kind)
    width, height = int(own.get("width", side)), int(own.get("height", side))
    scheduler = str(components["scheduler"][1]).removesuffix("Scheduler")
    weighted = [name for name in (kind.denoiser, "text_encoder", "text_encoder_2", "vae") if name in components]
    return ModelCard(
        id=model_id,
        path=path,
        family=kind.family,
        task=kind.task,
        denoiser=kind.denoiser,
        width=width,
        height=height,
        max_side=int(own.get("max_size", _MAX_ENLARGEMENT * max(width, height))),
        size_multiple=kind.size_multiple,
        num_steps=int(own.get("num_inference_steps", kind.num_steps)),
        guidance_scale=float(own.get("guidance_scale", kind.guidance_scale)),
        image_guidance_scale=float(own.get("image_guidance_scale", 1.5)),
        scheduler=scheduler,
        schedulers=tuple(dict.fromkeys((*kind.schedulers, scheduler))),
        licence=licence,
        digest=digest,
        num_frames=_num_frames(path) if kind.family == "pix2pix" else 1,
        shapes={name: _component_shapes(path / name) for name in weighted},
    )


def _num_frames(path: Path) -> int:
    """A UNet that edits sees the latents of every frame beside those that it denoises."""
    channels = int(_read_json(path / "unet" / "config.json")["in_channels"])
    latents = int(_read_json(path / "vae" / "config.json")["latent_channels"])
    if channels % latents or channels < 2 * latents:
        raise WeightsError(f"{path}: a UNet of {channels} input channels cannot edit pictures of {latents} channels")
    return channels // latents - 1


def _native_side(path: Path, kind: _Kind) -> int:
    vae = _read_json(path / "vae" / "config.json")
    scale = 1 << (len(vae["block_out_channels"]) - 1)
    if kind.family == "flux":
        # The transformer of FLUX knows no size of its own; the pipeline draws 128 latents a side by default.
        return 128 * scale
    sample_size = _read_json(path / kind.denoiser / "config.json")["sample_size"]
    return int(sample_size[0] if isinstance(sample_size, list) else sample_size) * scale


def _component_shapes(folder: Path) -> Shapes:
    files = sorted(file for file in folder.glob("*.safetensors") if ".fp16." not in file.name)
    files = files or sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeightsMissing(f"{folder}: no .safetensors file; weights are read from safetensors only, never a pickle")
    shapes: Shapes = {}
    for file in files:
        shapes |= read_shapes(file)
    return shapes


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsMissing(f"{path} is missing; a folder in diffusers form is needed") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not readable as JSON: {error}") from error
    return content
