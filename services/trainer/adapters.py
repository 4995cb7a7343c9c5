"""The adapters folder, which the diffusion service reads: what is in it, and removing from it."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from narrative.errors import AdapterNotFound, InvalidParameter

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
_DESCRIPTION_NAME = "training.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Adapter:
    """An adapter; ``description`` is JSON text, empty where nothing is known of it."""

    name: str
    size_bytes: int
    description: str


class AdapterShelf:
    """Adapters by name: a folder with weights and the description of their training, or a single weights file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> list[Adapter]:
        """Every adapter, by name."""
        if not self._folder.is_dir():
            return []
        names = {path.name if path.is_dir() else path.stem for path in self._folder.iterdir()}
        found = []
        for name in sorted(names):
            weights = self._weights(name)
            if weights is not None:
                found.append(Adapter(name, weights.stat().st_size, self._description(weights)))
        return found

    def delete(self, name: str) -> None:
        """Removes an adapter.

        Raises:
            InvalidParameter: not a name.
            AdapterNotFound: names those there are.
        """
        if not _NAME.fullmatch(name):
            raise InvalidParameter(f"{name[:80]!r} is no name of an adapter", field="name")
        weights = self._weights(name)
        if weights is None:
            known = ", ".join(adapter.name for adapter in self.all()) or "none"
            raise AdapterNotFound(f"no adapter {name!r}; there are: {known}", field="name")
        if weights.name != WEIGHTS_NAME:
            weights.unlink()
            return
        # Away with one rename, so that nobody finds half of it.
        doomed = self._folder / f".{name}.deleted"
        shutil.rmtree(doomed, ignore_errors=True)
        weights.parent.rename(doomed)
        shutil.rmtree(doomed)

    def _weights(self, name: str) -> Path | None:
        if not _NAME.fullmatch(name):
            return None
        candidates = (self._folder / name / WEIGHTS_NAME, self._folder / f"{name}.safetensors")
        return next((path for path in candidates if path.is_file()), None)

    @staticmethod
    def _description(weights: Path) -> str:
        try:
            content = json.loads((weights.parent / _DESCRIPTION_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return ""
        return json.dumps(content, ensure_ascii=False) if isinstance(content, dict) else ""
