"""Base models: finding them, loading them, and what is particular to each family."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from torch import nn

from narrative.catalogue import Catalogue
from narrative.errors import InvalidParameter, ModelNotFound, WeightsMissing
from services.trainer.base_models import find_here, is_of_hub
from services.trainer.memory import give_back_freed_memory
from services.trainer.pictures.loading import load, load_in_pieces, outline

Family = Literal["sd", "sdxl", "flux", "pix2pix"]
_PIPELINES: dict[str, Family] = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "FluxPipeline": "flux",
    "StableDiffusionInstructPix2PixPipeline": "pix2pix",
}
_DENOISERS = {"unet": "UNet2DConditionModel", "transformer": "FluxTransformer2DModel"}
_FROZEN_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_HUB_PATTERNS = ["*.json", "*.txt", "*.model", "*/*.safetensors"]


@dataclass
class BaseModel:
    """A pipeline whose parts are trained.

    Attributes:
        id: as it was asked for.
        path: its folder.
        dtype: of its frozen weights, except the autoencoder's; adapters are float32 always.
        digest: of its files, to tell a checkpoint of another base.
        autoencoder_config: outlives the autoencoder.
        num_steps: denoising steps that the model itself recommends; guidance_scale likewise.
    """

    id: str
    path: Path
    family: Family
    pipeline: Any
    dtype: torch.dtype
    digest: str
    autoencoder_config: Mapping[str, Any]
    num_steps: int
    guidance_scale: float

    @property
    def denoiser_name(self) -> str:
        return "transformer" if self.family == "flux" else "unet"

    @property
    def denoiser(self) -> Any:
        loaded = getattr(self.pipeline, self.denoiser_name)
        assert loaded is not None, "load_denoiser() comes first"
        return loaded

    def outline_of_denoiser(self) -> Any:
        """The UNet or transformer without its weights, to look at before it is loaded.

        Raises:
            WeightsError: it will not be possible to load it.
        """
        return outline(self._denoiser_class, self.path / self.denoiser_name)

    def load_denoiser(self, device: torch.device) -> None:
        """Loads the UNet or transformer, frozen, unless it is there.

        Raises:
            WeightsError: it cannot be loaded.
        """
        if getattr(self.pipeline, self.denoiser_name) is not None:
            return
        loaded = load_in_pieces(self._denoiser_class, self.path / self.denoiser_name, self.dtype)
        self.pipeline.register_modules(**{self.denoiser_name: loaded.requires_grad_(False).to(device)})

    def drop(self, *parts: str) -> None:
        """Frees parts of the pipeline that are not needed any more, and has their memory given back."""
        self.pipeline.register_modules(**dict.fromkeys(parts))
        give_back_freed_memory()

    @property
    def _denoiser_class(self) -> Any:
        return getattr(diffusers, _DENOISERS[self.denoiser_name])

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        """The CLIP encoders by name; what can be trained besides the denoiser. The T5 of FLUX never is."""
        names = ("text_encoder", "text_encoder_2") if self.family == "sdxl" else ("text_encoder",)
        return {name: getattr(self.pipeline, name) for name in names}


def load_base(
    model_id: str, families: Sequence[Family], mixed_precision: str, *, denoiser_later: bool = False
) -> BaseModel:
    """Finds and loads a base; everything is frozen, the autoencoder stays in float32.

    Args:
        denoiser_later: leave it to ``load_denoiser()``, so that what is encoded once can be encoded and its encoders
            dropped before: the two need never be in memory together. Such a pipeline does not draw. That the file is
            whole is seen to here.

    Raises:
        ModelNotFound: no such model.
        WeightsMissing: not pulled, or the hub cannot be reached.
        InvalidParameter: a model of another family than the recipe trains.
        WeightsError: the folder cannot be loaded.
    """
    path = _find(model_id)
    index_file = path / "model_index.json"
    if not index_file.is_file():
        raise InvalidParameter(
            f"{model_id}: no model_index.json in {path}; a diffusers folder is needed", field="model_id"
        )
    class_name = str(json.loads(index_file.read_text(encoding="utf-8")).get("_class_name"))
    family = _PIPELINES.get(class_name)
    if family is None or family not in families:
        wanted = ", ".join(name for name, known in _PIPELINES.items() if known in families)
        raise InvalidParameter(f"{model_id} is a {class_name}; this recipe trains {wanted}", field="model_id")
    dtype = _FROZEN_DTYPES[mixed_precision]
    options: dict[str, Any] = {}
    if denoiser_later:
        options |= {"transformer" if family == "flux" else "unet": None}
    if family in ("sd", "pix2pix"):
        options |= {"safety_checker": None, "requires_safety_checker": False}
    if family == "sdxl":
        options |= {"add_watermarker": False}
    pipeline = load(getattr(diffusers, class_name), path, dtype, **options)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.to(torch.float32)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    own_file = path / "generation_config.json"
    own = json.loads(own_file.read_text(encoding="utf-8")) if own_file.is_file() else {}
    base = BaseModel(
        id=model_id,
        path=path,
        family=family,
        pipeline=pipeline,
        dtype=dtype,
        digest=_digest(path),
        autoencoder_config=dict(pipeline.vae.config),
        num_steps=int(own.get("num_inference_steps", 30)),
        guidance_scale=float(own.get("guidance_scale", 3.5 if family == "flux" else 7.5)),
    )
    if denoiser_later:
        base.outline_of_denoiser()
    return base


def _find(model_id: str) -> Path:
    catalogue = Catalogue()
    if not is_of_hub(model_id, catalogue):
        return find_here(model_id, "model_id")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        found = huggingface_hub.snapshot_download(model_id, allow_patterns=_HUB_PATTERNS)
    except RepositoryNotFoundError as error:
        raise ModelNotFound(f"the hub has no model {model_id}", field="model_id") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise WeightsMissing(
            f"{model_id} is not on this machine and the hub cannot be reached (HF_ENDPOINT names a mirror); "
            f"--model-id takes a path or one of the catalogue: {', '.join(entry.id for entry in catalogue)}",
            field="model_id",
        ) from error
    return Path(found)


def _digest(path: Path) -> str:
    """Of configurations and weights headers: tells bases apart without reading gigabytes."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.suffix in (".json", ".safetensors"):
            digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
            with file.open("rb") as opened:
                digest.update(opened.read(1 << 20))
    return f"sha256:{digest.hexdigest()}"
