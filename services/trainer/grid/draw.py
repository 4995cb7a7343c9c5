"""Draws the cells of a grid with a base model and adapters."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from safetensors import SafetensorError

from narrative.errors import AdapterNotFound, InvalidParameter
from narrative.objects import Objects
from narrative.registry import ADAPTERS, NAME, Registry
from services.trainer.grid.plan import Cell
from services.trainer.pictures.adapter import WEIGHTS_NAME
from services.trainer.pictures.base import load_base
from services.trainer.settings import TrainerSettings

_ADAPTER = "cell"


class Studio:
    """A base model that draws cell after cell; an adapter stays loaded until another is asked for.

    Args:
        model_id: catalogue id, path of a diffusers folder, or hub repository.

    Raises:
        NarrativeError: as ``load_base``.
    """

    def __init__(self, model_id: str) -> None:
        self._base = load_base(model_id, ["sd", "sdxl", "flux"], "no")
        self._base.pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
        self._loaded: Path | None = None

    def draw(self, cell: Cell, adapter: Path | None) -> PIL.Image.Image:
        """Draws the picture of a cell.

        Args:
            adapter: weights file of the adapter; None to draw without.

        Raises:
            InvalidParameter: the adapter is for another base, or has no part for the text encoder.
        """
        self._load(adapter)
        if adapter is not None:
            self._weigh(cell, adapter)
        base = self._base
        with torch.inference_mode():
            drawn = base.pipeline(
                cell.prompt,
                num_inference_steps=cell.inference_steps or base.num_steps,
                guidance_scale=base.guidance_scale if cell.guidance is None else cell.guidance,
                # On the CPU whatever the device, as the diffusion service does.
                generator=torch.Generator("cpu").manual_seed(cell.seed),
            )
        picture: PIL.Image.Image = drawn.images[0]
        return picture

    def _load(self, adapter: Path | None) -> None:
        if adapter == self._loaded:
            return
        pipeline: Any = self._base.pipeline
        if self._loaded is not None:
            pipeline.delete_adapters(_ADAPTER)
            self._loaded = None
        if adapter is None:
            return
        try:
            pipeline.load_lora_weights(
                str(adapter.parent), weight_name=adapter.name, adapter_name=_ADAPTER, local_files_only=True
            )
        except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
            raise InvalidParameter(
                f"{adapter} cannot be loaded into {self._base.id}; use it with the base it was trained on",
                field="adapter",
            ) from error
        for part in pipeline.get_list_adapters():
            # New layers come in training mode, and one that was trained with dropout would go on dropping.
            getattr(pipeline, part).eval()
        self._loaded = adapter

    def _weigh(self, cell: Cell, adapter: Path) -> None:
        pipeline = self._base.pipeline
        parts = [part for part, names in pipeline.get_list_adapters().items() if _ADAPTER in names]
        if cell.text_encoder_scale is not None and not any(part.startswith("text_encoder") for part in parts):
            raise InvalidParameter(
                f"{adapter} does not change the text encoder, so text-encoder-scale says nothing; it was trained "
                "without train_text_encoder",
                field="text_encoder_scale",
            )
        text_scale = cell.unet_scale if cell.text_encoder_scale is None else cell.text_encoder_scale
        weights = {part: text_scale if part.startswith("text_encoder") else cell.unet_scale for part in parts}
        pipeline.set_adapters([_ADAPTER], [weights])


def find_adapter(asked: str, copies: Path, report: Callable[[str], None]) -> Path:
    """The weights file of an adapter: a folder, a file, or a name of the registry, which is copied.

    Args:
        copies: folder for copies from the registry; one that is there is used again.

    Raises:
        AdapterNotFound: it is none of these.
    """
    path = Path(asked).expanduser()
    for candidate in (path / WEIGHTS_NAME, path if path.suffix == ".safetensors" else path / WEIGHTS_NAME):
        if candidate.is_file():
            return candidate.resolve()
    if path.exists() or not re.fullmatch(NAME, asked):
        raise AdapterNotFound(f"{asked}: no {WEIGHTS_NAME} there, and no .safetensors file", field="adapter")
    copy = copies / asked / WEIGHTS_NAME
    if not copy.is_file():
        report(f"fetching adapter {asked}")
        asyncio.run(_fetch(asked, copies / asked))
    return copy.resolve()


async def _fetch(name: str, folder: Path) -> None:
    registry = Registry(Objects(TrainerSettings().objects_url), ADAPTERS, AdapterNotFound, "adapter")
    await registry.fetch(await registry.entry(name), folder)
