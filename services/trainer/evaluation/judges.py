"""Models that turn pictures and texts into vectors, each from a local folder, each its library's real class."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL.Image
import torch
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    CLIPModel,
    CLIPProcessor,
)
from transformers.utils.logging import disable_progress_bar

from narrative.catalogue import Catalogue
from narrative.errors import WeightsError
from narrative.settings import CommonSettings

_NOISE_LEVEL = 0.26
_UP_BLOCK = 1


class ImageJudge(Protocol):
    """Turns pictures into vectors."""

    def pictures(self, pictures: Sequence[PIL.Image.Image]) -> torch.Tensor:
        """float32 (pictures, width)."""


class ClipJudge:
    """Pictures and texts in one space (Radford et al., 2021)."""

    def __init__(self, folder: Path) -> None:
        self._model = _whole(CLIPModel, folder)
        self._processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[PIL.Image.Image]) -> torch.Tensor:
        """float32 (pictures, width)."""
        inputs = self._processor(images=list(pictures), return_tensors="pt")
        return _pooled(self._model.get_image_features(pixel_values=inputs["pixel_values"]))

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """float32 (texts, width); what does not fit the text encoder is cut off."""
        inputs = self._processor(text=list(texts), return_tensors="pt", padding=True, truncation=True)
        return _pooled(
            self._model.get_text_features(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        )


class VisionJudge:
    """The class token of a vision transformer, as the DINO metric of the DreamBooth paper takes it."""

    def __init__(self, folder: Path) -> None:
        self._model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        self._processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True
        )

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[PIL.Image.Image]) -> torch.Tensor:
        """float32 (pictures, width)."""
        inputs = self._processor(images=list(pictures), return_tensors="pt")
        hidden: torch.Tensor = self._model(**inputs).last_hidden_state
        return hidden[:, 0].float()


class ClassifierJudge:
    """The logits of a picture classifier, for the inception score."""

    def __init__(self, folder: Path) -> None:
        self._model = _whole(AutoModelForImageClassification, folder)
        self._processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True
        )

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[PIL.Image.Image]) -> torch.Tensor:
        """float32 (pictures, classes)."""
        logits: torch.Tensor = self._model(**self._processor(images=list(pictures), return_tensors="pt")).logits
        return logits.float()


class DiffusionJudge:
    """What the UNet of a diffusion model makes of a picture: how strongly each feature answers where it does most.

    The picture is encoded, noise is added, always the same, and the UNet looks at it without a prompt; block and noise
    are those of Tang et al., "Emergent Correspondence from Image Diffusion", 2023. The strongest answer, not the mean,
    as a thing covers little of a picture: means tell the place from other places and hardly a dog from a man. Such a
    judge needs no weights beyond those that draw; its scores compare pictures of one kind with one another, and nothing
    with the literature.
    """

    def __init__(self, folder: Path) -> None:
        from diffusers import DDPMScheduler, StableDiffusionPipeline
        from diffusers.utils.logging import disable_progress_bar as disable_progress_bar_of_diffusers

        disable_progress_bar_of_diffusers()

        pipeline: Any = StableDiffusionPipeline.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True, use_safetensors=True
        )
        self._unet, self._vae = pipeline.unet.float().eval(), pipeline.vae.float().eval()
        self._processor = pipeline.image_processor
        self._scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)  # type: ignore[no-untyped-call]
        self._size = self._unet.config.sample_size * pipeline.vae_scale_factor
        tokens = pipeline.tokenizer("", padding="max_length", return_tensors="pt").input_ids
        with torch.inference_mode():
            self._no_prompt = pipeline.text_encoder.float()(tokens)[0]

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[PIL.Image.Image]) -> torch.Tensor:
        """float32 (pictures, width), each of mean square 1: FID and KID take lengths as they come."""
        resized = [picture.resize((self._size, self._size), PIL.Image.Resampling.BICUBIC) for picture in pictures]
        config = self._vae.config
        latents = self._vae.encode(self._processor.preprocess(resized)).latent_dist.mean
        latents = (latents - (config.shift_factor or 0.0)) * config.scaling_factor
        noise = torch.from_numpy(np.random.default_rng(0).standard_normal(latents.shape[1:], np.float32))
        step = torch.tensor([round(_NOISE_LEVEL * self._scheduler.config.num_train_timesteps)])
        noised = self._scheduler.add_noise(latents, noise.expand_as(latents), step)
        seen: list[torch.Tensor] = []
        hook = self._unet.up_blocks[_UP_BLOCK].register_forward_hook(lambda _module, _inputs, out: seen.append(out))
        try:
            self._unet(noised, step, self._no_prompt.expand(len(pictures), -1, -1))
        finally:
            hook.remove()
        strongest = seen[0].amax((2, 3))
        return strongest / strongest.square().mean(dim=1, keepdim=True).sqrt()


def open_judge(model: str, kind: Callable[[Path], Any] | None = None) -> Any:
    """The judge of a catalogue id or path; without ``kind`` by what is in the folder.

    Raises:
        ModelNotFound, WeightsMissing: not known, or not fetched yet; says how to get it.
        WeightsError: the folder holds no model of this kind.
    """
    folder = Catalogue().resolve(model, CommonSettings().models_dir)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return (kind or _kind_of(folder))(folder)
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, TypeError) as error:
        raise WeightsError(f"{model} ({folder}) cannot judge pictures this way: {error}") from error


def _kind_of(folder: Path) -> Callable[[Path], ImageJudge]:
    if (folder / "model_index.json").is_file():
        return DiffusionJudge
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return ClipJudge if config.get("model_type") == "clip" else VisionJudge


def _whole(cls: Any, folder: Path) -> Any:
    """The model, unless part of it would have to be made up: transformers fills what is missing with random weights."""
    model, info = cls.from_pretrained(folder, local_files_only=True, use_safetensors=True, output_loading_info=True)
    if info["missing_keys"]:
        raise ValueError(f"the weights lack {', '.join(sorted(info['missing_keys'])[:3])}")
    return model


def _pooled(output: Any) -> torch.Tensor:
    features: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return features.float()
