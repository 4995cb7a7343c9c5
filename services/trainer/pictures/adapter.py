"""LoRA adapters: putting them on a base, and writing them as the diffusion service loads them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import LoraConfig, get_peft_model_state_dict
from torch import nn

from narrative.errors import InvalidParameter
from services.trainer import lora
from services.trainer.pictures.base import BaseModel
from services.trainer.pictures.config import LoraSettings

TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]
_ADAPTER = "default"
WEIGHTS_NAME = "pytorch_lora_weights.safetensors"


def add_adapter(base: BaseModel, settings: LoraSettings, *, seed: int, text_encoders: bool) -> dict[str, nn.Module]:
    """Puts fresh adapters on the denoiser and, if asked, on the CLIP text encoders; only they require gradients.

    Returns the adapted modules by name.

    Raises:
        InvalidParameter: the base has no layers of these names.
    """
    modules = {base.denoiser_name: base.denoiser, **(base.text_encoders if text_encoders else {})}
    torch.manual_seed(seed)
    for name, module in modules.items():
        _add(base, name, module, settings)
        for parameter in trained(module):
            # Half precision would lose most of what a step adds.
            parameter.data = parameter.data.float()
        lora.save_memory(module)
    return modules


def check_layers(base: BaseModel, settings: LoraSettings) -> None:
    """Finds before anything is encoded what ``add_adapter`` would find after it, when the denoiser is there.

    Raises:
        InvalidParameter: the denoiser has no layers of these names.
    """
    with init_empty_weights():
        _add(base, base.denoiser_name, base.outline_of_denoiser(), settings)


def _add(base: BaseModel, name: str, module: Any, settings: LoraSettings) -> None:
    targets = settings.target_modules if name == base.denoiser_name else TEXT_TARGETS
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.lora_alpha or settings.rank,  # type: ignore[arg-type]  # a fraction is as good
        lora_dropout=settings.lora_dropout,
        bias="none",
        init_lora_weights="gaussian",
        target_modules=targets,
    )
    try:
        module.add_adapter(config)
    except ValueError as error:
        raise InvalidParameter(
            f"the {name} of {base.id} has no layers {', '.join(targets)}", field="target_modules"
        ) from error


def trained(module: nn.Module) -> Iterable[nn.Parameter]:
    """What of a module is trained."""
    return (parameter for parameter in module.parameters() if parameter.requires_grad)


def save_adapter(base: BaseModel, modules: Mapping[str, nn.Module], folder: Path) -> None:
    """Writes ``pytorch_lora_weights.safetensors`` in diffusers' form; rank and alpha are kept in its header."""
    layers: dict[str, Any] = {}
    for name, module in modules.items():
        layers[f"{name}_lora_layers"] = {
            key: value.detach().cpu().contiguous() for key, value in get_peft_model_state_dict(module).items()
        }
        described = module.peft_config[_ADAPTER].to_dict()  # type: ignore[index, union-attr]
        # Sets are no JSON, and have no order of their own.
        layers[f"{name}_lora_adapter_metadata"] = {
            key: sorted(value) if isinstance(value, set) else value for key, value in described.items()
        }
    type(base.pipeline).save_lora_weights(folder, safe_serialization=True, **layers)
    # safetensors makes files that nobody else may read, and the service may run as somebody else.
    (folder / WEIGHTS_NAME).chmod(0o644)
