"""Adapters in and out: files that were made elsewhere into the registry, and those of the registry for elsewhere."""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from narrative.errors import AdapterNotFound, Conflict, ModelNotFound, NotFound, PayloadTooLarge
from narrative.objects import Objects
from narrative.registry import ADAPTERS, Entry, Registry
from services.diffusion.adapters import WEIGHTS_NAME, adapter_name
from services.diffusion.engine import AdapterFile
from services.diffusion.lora_file import (
    fitting,
    kohya_notes,
    most_common_rank,
    read_tensors,
    write_diffusers,
    write_kohya,
)
from services.diffusion.model_folder import ModelCard

KOHYA_NAME = "kohya.safetensors"
# Apart from the entry, for tags of the data may fill megabytes.
_NOTES_NAME = "kohya-notes.json"


class AdapterExchange:
    """Reads and writes files in the object store.

    Args:
        cards: the models that an adapter may be for, the default first.
        max_bytes: largest file that is imported.
    """

    def __init__(self, objects: Objects, cards: Sequence[ModelCard], max_bytes: int) -> None:
        self._objects, self._cards, self._max_bytes = objects, cards, max_bytes
        self._registry = Registry(objects, ADAPTERS, AdapterNotFound)

    def publish(self, asked: AdapterFile) -> None:
        """Checks a file and publishes it in diffusers' form.

        Raises:
            InvalidInput: it is no plain LoRA in a safetensors file, or fits none of the models.
            ModelNotFound: there is no such base.
            Conflict: there is an adapter of this name.
            PayloadTooLarge: it is larger than is accepted.
        """
        adapter_name(asked.name, "name")
        with tempfile.TemporaryDirectory(prefix="narrative-adapter-") as folder:
            asyncio.run(self._fetch_upload(asked, Path(folder) / "upload"))
            found = read_tensors(Path(folder) / "upload")
            card, lora = fitting(found, self._bases(asked.base), asked.alpha)
            files = {WEIGHTS_NAME: write_diffusers(lora, card.family, Path(folder))}
            if notes := kohya_notes(found):
                files[_NOTES_NAME] = Path(folder) / _NOTES_NAME
                files[_NOTES_NAME].write_text(json.dumps(notes), encoding="utf-8")
            rank, alpha = most_common_rank(lora)
            description: dict[str, Any] = {
                "name": asked.name,
                "recipe": None,
                "base": card.id,
                "base_digest": card.digest,
                "rank": rank,
                "alpha": alpha,
                "text_encoder": any(module.startswith("text_encoder") for module in lora),
                "trigger_word": asked.trigger_word,
                "licence": asked.licence,
                "data_digest": None,
                "metrics": None,
            }
            asyncio.run(self._registry.publish(asked.name, files, description))

    def in_kohya_form(self, name: str) -> str:
        """The key of an adapter's file in kohya's form in the object store; it is made when it is first asked for.

        Raises:
            AdapterNotFound: no such adapter.
            InvalidInput: its base is none that is drawn with here, or this form has no names for its layers.
        """
        entry = asyncio.run(self._registry.entry(adapter_name(name, "name")))
        key = self._registry.key(entry, KOHYA_NAME)
        if asyncio.run(self._objects.size(key)) is None:
            with tempfile.TemporaryDirectory(prefix="narrative-adapter-") as folder:
                self._write_kohya(entry, Path(folder), key)
        return key

    def _write_kohya(self, entry: Entry, folder: Path, key: str) -> None:
        asyncio.run(self._registry.fetch(entry, folder))
        card, lora = fitting(read_tensors(folder / WEIGHTS_NAME), self._bases(""), None)
        notes = folder / _NOTES_NAME
        kept = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}
        write_kohya(lora, card, folder / KOHYA_NAME, kept)
        with (folder / KOHYA_NAME).open("rb") as file:
            asyncio.run(self._objects.put(key, file))

    async def _fetch_upload(self, asked: AdapterFile, path: Path) -> None:
        if await self._registry.find(asked.name) is not None:
            raise Conflict(f"there is an adapter {asked.name!r}; delete it first, or take another name", field="name")
        size_bytes = await self._objects.size(asked.key)
        if size_bytes is None:
            raise NotFound(f"there is no object {asked.key!r}")
        if size_bytes > self._max_bytes:
            raise PayloadTooLarge(f"the file has {size_bytes} bytes; at most {self._max_bytes} are accepted")
        with path.open("wb") as file:
            async for piece in self._objects.stream(asked.key):
                file.write(piece)

    def _bases(self, wanted: str) -> list[ModelCard]:
        if not wanted:
            return list(self._cards)
        if chosen := [card for card in self._cards if card.id == wanted]:
            return chosen
        known = ", ".join(card.id for card in self._cards)
        raise ModelNotFound(f"no model {wanted[:80]!r}; there are {known}", field="base")
