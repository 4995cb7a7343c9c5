"""The adapters of the registry, as this service sees them, and whether one fits a model."""

import asyncio
import re
from pathlib import Path

from narrative.errors import AdapterNotFound, InvalidParameter, WeightsCorrupt
from narrative.objects import Objects
from narrative.registry import ADAPTERS, LocalCopies, Registry
from services.diffusion.model_folder import ModelCard
from services.diffusion.safetensors_header import Shapes, read_shapes

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
# A name is one path component, and one of a module's: peft takes no dots.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
DOWN = re.compile(r"\.(lora_A|lora\.down|lora_linear_layer\.down)(\.default)?\.weight$")
UP = re.compile(r"\.(lora_B|lora\.up|lora_linear_layer\.up)(\.default)?\.weight$")


class AdapterCache:
    """LoRA adapters by name: those of the object store, each copied into a folder when it is first asked for.

    The object store is looked at with every request, so an adapter that was published a moment ago can be used at once,
    and one that was deleted cannot.
    """

    def __init__(self, objects: Objects, folder: Path) -> None:
        self._folder = folder
        self._copies = LocalCopies(Registry(objects, ADAPTERS, AdapterNotFound, "adapters"), folder)

    def fetch(self, name: str) -> Path:
        """The weights file of an adapter's present version; blocks while it is copied.

        Raises:
            InvalidParameter: not a name.
            AdapterNotFound: names those there are.
            WeightsCorrupt: it came broken from the object store.
        """
        return asyncio.run(self._copies.folder_of(adapter_name(name))) / WEIGHTS_NAME

    def file(self, name: str) -> Path:
        """The weights file that ``fetch`` copied last.

        Raises:
            AdapterNotFound: it has been deleted since.
        """
        file = self._folder / name / WEIGHTS_NAME
        if not file.is_file():
            raise AdapterNotFound(f"adapter {name!r} has just been deleted", field="adapters")
        return file

    def check_fits(self, name: str, card: ModelCard) -> None:
        """Brings an adapter here and compares its header with that of a model.

        Raises:
            AdapterNotFound: no such adapter.
            InvalidParameter: it was trained for another base.
        """
        try:
            shapes = read_shapes(self.fetch(name))
        except WeightsCorrupt as error:
            raise InvalidParameter(f"adapter {name!r} is not a readable safetensors file", field="adapters") from error
        why = misfit(shapes, card)
        if why:
            raise InvalidParameter(
                f"adapter {name!r} does not fit model {card.id!r}: {why}; use it with the base it was trained on",
                field="adapters",
            )


def adapter_name(name: str, field: str = "adapters") -> str:
    """The name, if it is one.

    Raises:
        InvalidParameter: it is none.
    """
    if not _NAME.fullmatch(name):
        raise InvalidParameter(
            f"adapter name {name[:80]!r} is not a name; letters, digits, '_' and '-' are accepted, at most 64",
            field=field,
        )
    return name


def misfit(adapter: Shapes, card: ModelCard) -> str:
    """Why an adapter does not fit, or "" where nothing speaks against it.

    Judges names as diffusers and peft write them; adapters in other dialects (kohya) are judged by diffusers on
    loading.
    """
    judged = 0
    for key, shape in adapter.items():
        component, _, rest = key.partition(".")
        is_down, is_up = DOWN.search(rest), UP.search(rest)
        if not (is_down or is_up) or component not in ("unet", "transformer", "text_encoder", "text_encoder_2"):
            continue
        judged += 1
        base = card.shapes.get(component)
        if base is None:
            return f"it changes the {component}, which the model does not have"
        match = is_down or is_up
        assert match is not None
        target = _layer(base, plain_module(rest[: match.start()]))
        if target is None:
            return f"the model has no layer {component}.{rest[: match.start()]}"
        mine, theirs = (shape[1], target[1]) if is_down else (shape[0], target[0])
        if mine != theirs:
            return f"layer {component}.{rest[: match.start()]} is {theirs} wide in the model and {mine} in the adapter"
    if not judged and not any("lora" in key for key in adapter):
        return "it holds no LoRA layers"
    return ""


def _layer(base: Shapes, module: str) -> tuple[int, ...] | None:
    """Shape of a layer; older CLIP files call everything ``text_model.``, newer transformers leave that out."""
    bare = module.removeprefix("text_model.")
    return base.get(f"{bare}.weight") or base.get(f"text_model.{bare}.weight")


def plain_module(module: str) -> str:
    """Layer name without the detour through attention processors that old diffusers wrote."""
    return re.sub(r"\.processor\.(to_[qkv]|to_out)_lora", r".\1", module).replace(".to_out.weight", ".to_out.0.weight")
