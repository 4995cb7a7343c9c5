"""Adapters of a compiled denoiser, swapped without compiling it again.

A compiled network is made for certain layers. One LoRA, the slot, is put into them before: zeros that change nothing.
Adapters that are asked for are then written into it as one: side by side along the rank, each times its weight. So any
number of them, of any weight, is a copy of some megabytes. Only adapters that change other layers, or have more rank
together than the slot, make it grow, and that compiles once more.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.hotswap import hotswap_adapter_from_state_dict
from torch import nn

from narrative.errors import InvalidParameter
from services.diffusion.adapters import AdapterCache
from services.diffusion.engine import Adapter
from services.diffusion.lora import ActiveAdapters

log = structlog.get_logger()
_SLOT = "hot_swap_slot"
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")

# Down and up matrix of the layers that adapters change.
Layers = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


class HotSwappedAdapters:
    """Works as ``ActiveAdapters`` does, for a pipeline whose denoiser is compiled.

    Adapters are loaded into a twin of the denoiser whose own weights take no memory, and read off from there; the text
    encoders are not compiled, and the twin shares them.

    Args:
        denoiser: name of the component.
        most: adapters kept in memory.
        rank: of the slot to begin with.
    """

    def __init__(self, pipeline: Any, denoiser: str, folder: AdapterCache, most: int, rank: int) -> None:
        self._denoiser = getattr(pipeline, denoiser)
        self._twin = _without_memory(type(self._denoiser), self._denoiser.config)
        twins = type(pipeline)(**{**pipeline.components, denoiser: self._twin})
        self._adapters = ActiveAdapters(twins, folder, most)
        self._written = self._adapters.version
        self._rank = 0
        self._targets: set[str] = set()
        self._grow(rank, {name for name, _ in self._denoiser.named_modules() if name.endswith(_ATTENTION)})

    @property
    def text_state(self) -> tuple[object, ...]:
        """What the text encoders depend on."""
        return self._adapters.text_state

    def activate(self, adapters: tuple[Adapter, ...]) -> Sequence[torch.Tensor]:
        """Makes exactly these adapters work, each with its weights; does nothing where they do already.

        Returns:
            The tensors of the denoiser that were written over in place.

        Raises:
            AdapterNotFound: deleted since the request was accepted.
            InvalidParameter: an adapter cannot be loaded into this model, or not into a compiled one.
        """
        self._adapters.activate(adapters)
        if self._adapters.version == self._written:
            return ()
        layers = self._read_off([adapter.name for adapter in adapters])
        rank = max((down.shape[0] for down, _ in layers.values()), default=0)
        if rank > self._rank or not self._targets.issuperset(layers):
            self._grow(max(rank, self._rank), self._targets.union(layers))
        self._write(layers)
        self._written = self._adapters.version
        return self._slot()

    def _read_off(self, names: Sequence[str]) -> Layers:
        """The sum of the active adapters, layer by layer."""
        layers = {}
        for layer_name, layer in self._twin.named_modules():
            if not isinstance(layer, BaseTunerLayer):
                continue
            parts = [name for name in names if name in _adapters_of(layer)]
            if not isinstance(layer, LoraLayer) or any(map(layer.use_dora.get, parts)):
                raise InvalidParameter(
                    "with NARRATIVE_DIFFUSION__COMPILE only plain LoRA adapters can be drawn with, no DoRA and no LoKr",
                    field="adapters",
                )
            if parts:
                layers[layer_name] = (
                    torch.cat([_weight(layer.lora_A[name]) for name in parts]),
                    torch.cat([_weight(layer.lora_B[name]) * layer.scaling[name] for name in parts], dim=1),
                )
        return layers

    def _grow(self, rank: int, targets: set[str]) -> None:
        if self._rank:
            log.info("the compiled denoiser gets more room for adapters", rank=rank, layers=len(targets))
            self._denoiser.delete_adapters(_SLOT)
        self._rank, self._targets = rank, targets
        # As large as its rank, alpha leaves what is written into the slot as it is.
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(targets))
        self._denoiser.add_adapter(config, adapter_name=_SLOT)
        self._denoiser.requires_grad_(False)

    def _write(self, layers: Layers) -> None:
        """Overwrites the slot; peft fills up with zeros what the adapters leave out."""
        weights = {}
        for name, (down, up) in layers.items():
            weights[f"{name}.lora_A.{_SLOT}.weight"] = down
            weights[f"{name}.lora_B.{_SLOT}.weight"] = up
        config = LoraConfig(r=self._rank, lora_alpha=self._rank)
        hotswap_adapter_from_state_dict(self._denoiser, weights, _SLOT, config)

    def _slot(self) -> list[torch.Tensor]:
        return [tensor for name, tensor in self._denoiser.named_parameters() if f".{_SLOT}." in name]


def _without_memory(network: Any, config: Any) -> nn.Module:
    """A network of which every weight is one number that is repeated: adapters can be loaded into it, nothing more."""
    with torch.device("meta"):
        twin: nn.Module = network.from_config(config)
    for part in twin.modules():
        for name, weight in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(torch.zeros(1).expand(weight.shape), requires_grad=False))
    return twin


def _adapters_of(layer: BaseTunerLayer) -> set[str]:
    return {name for kind in layer.adapter_layer_names for name in getattr(layer, kind)}


def _weight(module: nn.Module) -> torch.Tensor:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight
