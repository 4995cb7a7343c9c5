"""LoRA files: read in diffusers', peft's or kohya's form, written in diffusers' or kohya's; weights keep every bit."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from narrative.errors import InvalidInput, InvalidParameter
from services.diffusion import kohya
from services.diffusion.adapters import DOWN, UP, WEIGHTS_NAME, misfit, plain_module
from services.diffusion.model_folder import ModelCard

_CLASSES: dict[str, Any] = {
    "sd": diffusers.StableDiffusionPipeline,
    "sdxl": diffusers.StableDiffusionXLPipeline,
    "flux": diffusers.FluxPipeline,
    "pix2pix": diffusers.StableDiffusionPipeline,
}
_COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
_METADATA = "lora_adapter_metadata"
_PEFT_ROOT = "base_model.model."
# How a pickle begins, plain or zipped as torch writes it.
_PICKLES = (b"\x80", b"PK\x03\x04")


@dataclass(frozen=True)
class Layer:
    """What is added to a layer: alpha / rank x up @ down.

    Attributes:
        down: (rank, inputs), or (rank, inputs, height, width) for a convolution.
        up: (outputs, rank), or (outputs, rank, 1, 1).
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])


# By module, such as "unet.mid_block.attentions.0.proj_in".
Lora = dict[str, Layer]


@dataclass(frozen=True)
class LoraTensors:
    """What is in a file, names untouched."""

    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]


def read_tensors(path: Path) -> LoraTensors:
    """Reads a file.

    Raises:
        InvalidInput: it is no safetensors file.
    """
    try:
        with safe_open(path, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
            return LoraTensors(tensors, opened.metadata() or {})
    except (SafetensorError, ValueError, OSError) as error:
        with path.open("rb") as file:
            if file.read(4).startswith(_PICKLES):
                raise InvalidInput(
                    "the file is a pickle, which could run code; only safetensors files are accepted", field="file"
                ) from error
        raise InvalidInput(f"the file is no safetensors file: {error}", field="file") from error


def fitting(found: LoraTensors, cards: Iterable[ModelCard], alpha: float | None) -> tuple[ModelCard, Lora]:
    """The first of some models that a file fits, and its layers by that model's names.

    Args:
        alpha: of files in peft's own form, which do not hold it.

    Raises:
        InvalidParameter: it fits none; says why.
    """
    reasons = []
    for card in cards:
        lora = _layers(found, card, alpha)
        shapes = {f"{module}.lora_A.weight": tuple(layer.down.shape) for module, layer in lora.items()}
        shapes |= {f"{module}.lora_B.weight": tuple(layer.up.shape) for module, layer in lora.items()}
        reason = misfit(shapes, card)
        if not reason:
            return card, lora
        reasons.append(f"{card.id}: {reason}")
    raise InvalidParameter(
        f"the adapter fits no model that pictures are drawn with here ({'; '.join(reasons)})", field="base"
    )


def write_diffusers(lora: Lora, family: str, folder: Path) -> Path:
    """Writes ``pytorch_lora_weights.safetensors``; ranks and alphas are in its header, as diffusers keeps them."""
    parts: dict[str, Any] = {}
    for component in _COMPONENTS:
        layers = {
            module.partition(".")[2]: layer for module, layer in lora.items() if module.startswith(f"{component}.")
        }
        if not layers:
            continue
        parts[f"{component}_lora_layers"] = {
            f"{path}.{name}.weight": tensor.contiguous()
            for path, layer in layers.items()
            for name, tensor in (("lora_A", layer.down), ("lora_B", layer.up))
        }
        parts[f"{component}_lora_adapter_metadata"] = _config(layers)
    _CLASSES[family].save_lora_weights(folder, safe_serialization=True, **parts)
    path = folder / WEIGHTS_NAME
    # safetensors makes files that nobody else may read, and a copy may be read by somebody else.
    path.chmod(0o644)
    return path


def kohya_notes(found: LoraTensors) -> dict[str, str]:
    """What kohya's trainer noted in a file's header: settings, tags of the data, the model's card."""
    return {name: text for name, text in found.metadata.items() if name.startswith(("ss_", "modelspec."))}


def write_kohya(lora: Lora, card: ModelCard, path: Path, notes: Mapping[str, str]) -> None:
    """Writes a file in kohya's form.

    Args:
        notes: of ``kohya_notes``, for a file that came in this form.

    Raises:
        InvalidInput: it has layers that this form has no names for.
    """
    per_block, is_sdxl = _layers_per_block(card), card.family == "sdxl"
    tensors: dict[str, torch.Tensor] = {}
    for module, layer in lora.items():
        name = kohya.name_of(module, per_block, is_sdxl=is_sdxl)
        tensors[f"{name}.lora_down.weight"] = layer.down.contiguous()
        tensors[f"{name}.lora_up.weight"] = layer.up.contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
    ranks = Counter(layer.rank for layer in lora.values())
    alphas = Counter(layer.alpha for layer in lora.values())
    save_file(
        tensors,
        path,
        metadata={
            **notes,
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(ranks.most_common(1)[0][0]),
            "ss_network_alpha": str(alphas.most_common(1)[0][0]),
        },
    )


def most_common_rank(lora: Lora) -> tuple[int, float]:
    """Rank and alpha that most layers have."""
    return Counter((layer.rank, layer.alpha) for layer in lora.values()).most_common(1)[0][0]


def _layers(found: LoraTensors, card: ModelCard, alpha: float | None) -> Lora:
    names = found.tensors.keys()
    if strange := [name for name in names if "dora_scale" in name or ".hada_" in name or ".lokr_" in name]:
        raise InvalidInput(f"{strange[0]} is no plain LoRA; DoRA, LoHa and LoKr are not accepted", field="file")
    if any(name.startswith("lora_") for name in names):
        return _from_kohya(found.tensors, card)
    tensors = dict(found.tensors)
    if any(name.startswith(_PEFT_ROOT) for name in names):
        if alpha is None:
            raise InvalidParameter(
                "the file is in peft's own form, whose alpha stands in adapter_config.json; send it as alpha",
                field="alpha",
            )
        tensors = {name.replace(_PEFT_ROOT, f"{card.denoiser}.", 1): tensor for name, tensor in tensors.items()}
    downs: dict[str, torch.Tensor] = {}
    ups: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, side in ((DOWN, downs), (UP, ups)):
            if match := pattern.search(name):
                side[plain_module(name[: match.start()])] = tensor
    if not downs or downs.keys() != ups.keys() or len(downs) + len(ups) != len(tensors):
        odd = next((name for name in tensors if not (DOWN.search(name) or UP.search(name))), "")
        raise InvalidInput(
            f"the file holds {f'{odd}, which is' if odd else 'layers that are'} no pair of LoRA matrices", field="file"
        )
    alphas = _Alphas(found.metadata, alpha)
    return {
        _living(module): Layer(down, ups[module], alphas.of(module, down.shape[0])) for module, down in downs.items()
    }


def _from_kohya(tensors: Mapping[str, torch.Tensor], card: ModelCard) -> Lora:
    names = {name.partition(".")[0] for name in tensors}
    modules = kohya.modules_of(names, _layers_per_block(card))
    lora = {}
    for name in sorted(names):
        try:
            down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
            module = modules[name]
        except KeyError as error:
            raise InvalidInput(f"the file lacks {error.args[0]}", field="file") from error
        alpha = tensors.get(f"{name}.alpha")
        lora[_living(module)] = Layer(down, up, float(down.shape[0] if alpha is None else alpha))
    known = {f"{name}.{part}" for name in names for part in ("lora_down.weight", "lora_up.weight", "alpha")}
    if odd := sorted(tensors.keys() - known):
        raise InvalidInput(f"the file holds {odd[0]}, which is no part of a plain LoRA", field="file")
    return lora


class _Alphas:
    """Alphas of a file in diffusers' form: in its header, else the rank, so that the factor is one."""

    def __init__(self, metadata: Mapping[str, str], given: float | None) -> None:
        try:
            kept = json.loads(metadata.get(_METADATA, "{}"))
        except ValueError as error:
            raise InvalidInput(f"the file's {_METADATA} is no JSON", field="file") from error
        self._kept, self._given = kept, given

    def of(self, module: str, rank: int) -> float:
        component, _, path = module.partition(".")
        patterns = self._kept.get(f"{component}.alpha_pattern") or {}
        default = self._kept.get(f"{component}.lora_alpha", rank if self._given is None else self._given)
        return float(patterns.get(path, default))


def _config(layers: Mapping[str, Layer]) -> dict[str, Any]:
    rank = Counter(layer.rank for layer in layers.values()).most_common(1)[0][0]
    alpha = Counter(layer.alpha for layer in layers.values()).most_common(1)[0][0]
    config: dict[str, Any] = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # a fraction is as good
        rank_pattern={path: layer.rank for path, layer in layers.items() if layer.rank != rank},
        alpha_pattern={path: layer.alpha for path, layer in layers.items() if layer.alpha != alpha},
        target_modules=sorted(layers),
    ).to_dict()  # type: ignore[no-untyped-call]
    # Sets are no JSON, and have no order of their own.
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}


def _living(module: str) -> str:
    """The name in the loaded model: transformers' plain CLIP encoder leaves out ``text_model.``, the one that projects
    has it."""
    component, _, path = module.partition(".")
    bare = path.removeprefix("text_model.")
    if component == "text_encoder_2" and bare != "text_projection":
        return f"{component}.text_model.{bare}"
    return f"{component}.{bare}"


def _layers_per_block(card: ModelCard) -> int:
    config = json.loads((card.path / card.denoiser / "config.json").read_text(encoding="utf-8"))
    per_block = config.get("layers_per_block")
    if not isinstance(per_block, int):
        raise InvalidInput(f"kohya's form is for Stable Diffusion 1.x and SDXL; {card.id} is neither", field="base")
    return per_block
