"""A run's averaged weights as a few files small enough to be carried from one machine to another.

Half precision, nothing but weights: a run that goes on from them begins with the average as its weights and with a
fresh optimiser that warms up again. That costs some hundred steps and makes a run of 30 M parameters 60 MB instead of
500 MB.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

SHARD_BYTES = 16 * 2**20 - 2**16
"""Most that one file holds; the rest of 16 MiB is for its header."""
MAX_SHARDS = 7


class ShardError(ValueError):
    """Weights that do not fit into the shards allowed, or shards that are damaged, mixed or incomplete."""


def write(folder: Path, tensors: dict[str, torch.Tensor], about: dict[str, str]) -> list[Path]:
    """Write tensors, floating point ones as float16, into ``weights-1-of-n.safetensors`` and so on.

    Raises:
        ShardError: if more than ``MAX_SHARDS`` files would be needed.
    """
    parts: list[dict[str, torch.Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        small = (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        if filled + small.nbytes > SHARD_BYTES and parts[-1]:
            parts.append({})
            filled = 0
        if small.nbytes > SHARD_BYTES:
            raise ShardError(f"{name} alone is larger than a shard: {small.nbytes} bytes")
        parts[-1][name] = small
        filled += small.nbytes
    if len(parts) > MAX_SHARDS:
        raise ShardError(f"the weights need {len(parts)} shards and {MAX_SHARDS} are allowed; choose a smaller model")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("weights-*.safetensors"):
        old.unlink()
    paths = [folder / f"weights-{index}-of-{len(parts)}.safetensors" for index in range(1, len(parts) + 1)]
    for index, (path, part) in enumerate(zip(paths, parts, strict=True)):
        save_file(part, path, metadata={**about, "shard": str(index), "shards": str(len(parts))})
    return paths


def read(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return tensors (as they were written) and what was said about them.

    Raises:
        ShardError: if a file is damaged or missing, or if the files are not of one run.
        FileNotFoundError: if there are none.
    """
    paths = sorted(folder.glob("weights-*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"no weights-*.safetensors in {folder}")
    tensors: dict[str, torch.Tensor] = {}
    abouts = []
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                abouts.append(dict(file.metadata() or {}))
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ShardError(f"{path} is damaged: {error}") from error
    indices = sorted(int(about.pop("shard", -1)) for about in abouts)
    if any(about != abouts[0] for about in abouts) or indices != list(range(int(abouts[0].get("shards", 0)))):
        raise ShardError(f"{folder} does not hold the whole of one run: {', '.join(path.name for path in paths)}")
    return tensors, abouts[0]
