"""Whole models that the trainer published, by name: found with every request, loaded when they are drawn with."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import structlog

from narrative.errors import ModelNotFound, NarrativeError
from narrative.objects import Objects
from narrative.registry import PICTURE_MODELS, Entry, LocalCopies, Registry
from services.diffusion.model_folder import ModelCard, read_card
from services.diffusion.pipelines import LoadedModel

log = structlog.get_logger()


class PublishedModels:
    """Models of the object store, each copied into a folder when it is first asked for.

    Args:
        folder: for the copies.
        most: models in memory.
        load: makes a model of its card; ``unload`` lets go of what that took.
    """

    def __init__(
        self,
        objects: Objects,
        folder: Path,
        most: int,
        load: Callable[[ModelCard], LoadedModel],
        unload: Callable[[LoadedModel], None],
    ) -> None:
        self._registry = Registry(objects, PICTURE_MODELS, ModelNotFound, "model")
        self._copies = LocalCopies(self._registry, folder)
        self._most, self._load, self._unload = most, load, unload
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()

    def licences(self) -> dict[str, str]:
        """What is published now, by name, with licences; blocks while it asks the object store."""
        try:
            return {entry.name: _licence(entry) for entry in asyncio.run(self._registry.entries())}
        except NarrativeError as error:
            # That must not keep anybody from the other models.
            log.warning("published models cannot be listed", error=error.message)
            return {}

    def card(self, name: str) -> ModelCard:
        """What requests to a model are checked against; copies it here, so it is for worker threads.

        Raises:
            InvalidParameter: not a name.
            ModelNotFound: no such model; names those there are.
            WeightsError: what was published cannot be run.
        """
        entry, path = asyncio.run(self._find(name))
        return read_card(name, path, licence=_licence(entry), digest=f"version:{entry.version}")

    def open(self, name: str) -> LoadedModel:
        """The present version of a model, in memory; for the drawing thread alone.

        Raises:
            ModelNotFound: it has been deleted since the request was accepted.
            WeightsError: it cannot be loaded.
        """
        card = self.card(name)
        held = self._loaded.pop(name, None)
        if held is not None and held.card.digest != card.digest:
            self._unload(held)
            held = None
        if held is None:
            while len(self._loaded) >= self._most:
                self._unload(self._loaded.popitem(last=False)[1])
            held = self._load(card)
        self._loaded[name] = held
        return held

    def loaded(self) -> list[LoadedModel]:
        """Those in memory."""
        return list(self._loaded.values())

    async def _find(self, name: str) -> tuple[Entry, Path]:
        path = await self._copies.folder_of(name)
        return await self._registry.entry(name), path


def _licence(entry: Entry) -> str:
    return str(entry.description.get("licence") or "")
