"""The adapters folder: what is in it, and whether it fits a model."""

import re
from pathlib import Path

from narrative.errors import AdapterNotFound, InvalidParameter, WeightsCorrupt
from services.diffusion.model_folder import ModelCard
from services.diffusion.safetensors_header import Shapes, read_shapes

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
# A name is one path component: it cannot climb out of the folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_DOWN = re.compile(r"\.(lora_A|lora\.down|lora_linear_layer\.down)(\.default)?\.weight$")
_UP = re.compile(r"\.(lora_B|lora\.up|lora_linear_layer\.up)(\.default)?\.weight$")


class AdapterFolder:
    """LoRA adapters by name: ``NAME/pytorch_lora_weights.safetensors`` or ``NAME.safetensors``.

    The folder is looked at with every request, so an adapter that was trained a moment ago can be used at once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """Names that can be asked for, sorted."""
        if not self._folder.is_dir():
            return []
        named = [(path.stem if path.suffix else path.name) for path in self._folder.iterdir()]
        return sorted({name for name in named if _NAME.fullmatch(name) and self._file(name) is not None})

    def file(self, name: str) -> Path:
        """The weights file of an adapter.

        Raises:
            InvalidParameter: not a name.
            AdapterNotFound: names those there are.
        """
        if not _NAME.fullmatch(name):
            raise InvalidParameter(
                f"adapter name {name[:80]!r} is not a name; letters, digits, '_' and '-' are accepted, at most 64",
                field="adapters",
            )
        file = self._file(name)
        if file is None:
            raise AdapterNotFound(
                f"no adapter {name!r}; there are: {', '.join(self.names()) or 'none'}", field="adapters"
            )
        return file

    def check_fits(self, name: str, card: ModelCard) -> None:
        """Compares the header of an adapter with that of a model.

        Raises:
            AdapterNotFound: no such adapter.
            InvalidParameter: it was trained for another base.
        """
        try:
            shapes = read_shapes(self.file(name))
        except WeightsCorrupt as error:
            raise InvalidParameter(f"adapter {name!r} is not a readable safetensors file", field="adapters") from error
        why = _misfit(shapes, card)
        if why:
            raise InvalidParameter(
                f"adapter {name!r} does not fit model {card.id!r}: {why}; use it with the base it was trained on",
                field="adapters",
            )

    def _file(self, name: str) -> Path | None:
        for path in (self._folder / name / WEIGHTS_NAME, self._folder / f"{name}.safetensors"):
            if path.is_file():
                return path
        return None


def _misfit(adapter: Shapes, card: ModelCard) -> str:
    """Why an adapter does not fit, or "" where nothing speaks against it.

    Judges names as diffusers and peft write them; adapters in other dialects (kohya) are judged by diffusers on
    loading.
    """
    judged = 0
    for key, shape in adapter.items():
        component, _, rest = key.partition(".")
        is_down, is_up = _DOWN.search(rest), _UP.search(rest)
        if not (is_down or is_up) or component not in ("unet", "transformer", "text_encoder", "text_encoder_2"):
            continue
        judged += 1
        base = card.shapes.get(component)
        if base is None:
            return f"it changes the {component}, which the model does not have"
        match = is_down or is_up
        assert match is not None
        target = _layer(base, _plain_module(rest[: match.start()]))
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


def _plain_module(module: str) -> str:
    """Layer name without the detour through attention processors that old diffusers wrote."""
    return re.sub(r"\.processor\.(to_[qkv]|to_out)_lora", r".\1", module).replace(".to_out.weight", ".to_out.0.weight")
