"""Names and shapes of the tensors of a safetensors file, read from its header alone.

The format: https://huggingface.co/docs/safetensors. Eight bytes of length, then JSON.
"""

import json
from pathlib import Path

from narrative.errors import WeightsCorrupt

Shapes = dict[str, tuple[int, ...]]
_MAX_HEADER_BYTES = 100_000_000


def read_shapes(path: Path) -> Shapes:
    """Shapes by tensor name.

    Raises:
        WeightsCorrupt: not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MAX_HEADER_BYTES:
                raise ValueError("header too long")
            header = json.loads(file.read(length))
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsCorrupt(f"{path} is not a safetensors file: {error}") from error
