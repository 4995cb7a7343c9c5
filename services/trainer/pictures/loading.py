"""Loading weights with little more memory than they take."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from safetensors import SafetensorError, safe_open

from narrative.errors import WeightsError

_FILE = "diffusion_pytorch_model.safetensors"
_PIECE_NUMBERS = 1 << 26


def load(cls: Any, folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    """``from_pretrained`` of a model or pipeline in a local folder.

    Raises:
        WeightsError: it cannot be loaded.
    """
    try:
        return cls.from_pretrained(str(folder), dtype=dtype, use_safetensors=True, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder}: {cls.__name__} cannot be loaded: {error}") from error


def outline(cls: Any, folder: Path) -> Any:
    """A diffusers model without its weights, on the device ``meta``; they are only seen to be there.

    Raises:
        WeightsError: its configuration or the head of its weights cannot be read, or part of their file is missing.
    """
    file = folder / _FILE
    try:
        with init_empty_weights():
            model = cls.from_config(cls.load_config(str(folder), local_files_only=True))
        if file.is_file():
            # This reads no weights, but compares the length of the file with what its head says.
            with safe_open(file, framework="pt"):
                pass
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise WeightsError(f"{file}: {cls.__name__} cannot be loaded: {error}") from error
    return model


def load_in_pieces(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """``load`` of a diffusers model, without the whole file in memory beside weights of another type.

    What was read of a file counts as memory until it is closed, so it is opened again for every piece. Files that are
    in pieces already, or name their weights otherwise than the model, are left to ``from_pretrained``.

    Raises:
        WeightsError: it cannot be loaded.
    """
    file = folder / _FILE
    if not file.is_file():
        return load(cls, folder, dtype)
    model = outline(cls, folder)
    try:
        sizes = {name: value.numel() for name, value in model.state_dict().items()}
        with safe_open(file, framework="pt") as opened:
            if set(opened.keys()) != sizes.keys():
                return load(cls, folder, dtype)
        for piece in _pieces(sizes):
            with safe_open(file, framework="pt") as opened:
                for name in piece:
                    set_module_tensor_to_device(model, name, "cpu", value=opened.get_tensor(name), dtype=dtype)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise WeightsError(f"{file}: {cls.__name__} cannot be loaded: {error}") from error
    return model.eval()


def _pieces(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    piece: list[str] = []
    total = 0
    for name, size in sizes.items():
        piece.append(name)
        total += size
        if total >= _PIECE_NUMBERS:
            yield piece
            piece, total = [], 0
    yield piece
