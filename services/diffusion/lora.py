"""The adapters that are loaded into one pipeline, and which of them are active."""

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError

from narrative.errors import InvalidParameter
from services.diffusion.adapters import AdapterCache
from services.diffusion.engine import Adapter


class ActiveAdapters:
    """Loads adapters when they are first asked for and keeps the most recently used ones.

    Args:
        pipeline: a diffusers pipeline; only the drawing thread may touch it.
        most: adapters kept in memory.

    Attributes:
        version: another number whenever something has changed.
    """

    def __init__(self, pipeline: Any, folder: AdapterCache, most: int) -> None:
        self._pipeline = pipeline
        self._folder = folder
        self._most = most
        self._loaded: OrderedDict[str, int] = OrderedDict()
        self._active: tuple[Adapter, ...] | None = ()
        self.version = 0

    @property
    def text_state(self) -> tuple[object, ...]:
        """What the text encoders depend on: the files that are active in them, and their weights."""
        return tuple(
            (adapter.name, self._loaded[adapter.name], adapter.text_encoder_weight)
            for adapter in self._active or ()
            if adapter.text_encoder_weight
        )

    def activate(self, adapters: tuple[Adapter, ...]) -> Sequence[torch.Tensor]:
        """Makes exactly these adapters work, each with its weights; does nothing where they do already.

        Returns:
            Tensors that were written over in place: none, for adapters bring their own.

        Raises:
            AdapterNotFound: deleted since the request was accepted.
            InvalidParameter: an adapter cannot be loaded into this model.
        """
        fresh = [self._load(adapter.name) for adapter in adapters]
        if adapters == self._active and not any(fresh):
            return ()
        # Unknown until done: an error half way must not leave the old set on the books.
        self._active = None
        self.version += 1
        if adapters:
            self._pipeline.enable_lora()
            parts = self._pipeline.get_list_adapters()
            self._pipeline.set_adapters(
                [adapter.name for adapter in adapters],
                [
                    {
                        part: adapter.text_encoder_weight if part.startswith("text_encoder") else adapter.weight
                        for part, names in parts.items()
                        if adapter.name in names
                    }
                    for adapter in adapters
                ],
            )
        elif self._loaded:
            self._pipeline.disable_lora()
        self._active = adapters
        self._evict(keep={adapter.name for adapter in adapters})
        return ()

    def _load(self, name: str) -> bool:
        """Loads an adapter unless its file is loaded already; says whether it did."""
        file = self._folder.file(name)
        version = file.stat().st_mtime_ns
        if self._loaded.get(name) == version:
            self._loaded.move_to_end(name)
            return False
        self._active = None
        if name in self._loaded:
            self._delete(name)
        try:
            with warnings.catch_warnings():
                # Several adapters side by side are the purpose here.
                warnings.filterwarnings("ignore", "Already found a `peft_config`")
                self._pipeline.load_lora_weights(
                    str(file.parent),
                    weight_name=file.name,
                    adapter_name=name,
                    use_safetensors=True,
                    local_files_only=True,
                )
        except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
            self._remove_remains(name)
            raise InvalidParameter(
                f"adapter {name!r} cannot be loaded into this model; use it with the base it was trained on",
                field="adapters",
            ) from error
        for part in self._pipeline.get_list_adapters():
            # New layers come in training mode, and one that was trained with dropout would go on dropping.
            getattr(self._pipeline, part).eval()
        self._loaded[name] = version
        return True

    def _remove_remains(self, name: str) -> None:
        if any(name in names for names in self._pipeline.get_list_adapters().values()):
            self._pipeline.delete_adapters(name)

    def _delete(self, name: str) -> None:
        del self._loaded[name]
        self._remove_remains(name)

    def _evict(self, keep: set[str]) -> None:
        for name in list(self._loaded):
            if len(self._loaded) <= self._most:
                return
            if name not in keep:
                self._delete(name)
