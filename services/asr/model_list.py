"""What transcription models there are, told without loading one."""

import asyncio
import json
from pathlib import Path

import structlog
from faster_whisper.tokenizer import _LANGUAGE_CODES

from narrative.catalogue import Catalogue
from narrative.errors import InvalidParameter, ModelNotFound, NarrativeError, NotFound, WeightsError
from narrative.objects import Objects
from narrative.registry import SPEECH_MODELS, Entry, Registry
from services.asr.engine import ModelInfo
from services.asr.options import check_model
from services.asr.settings import AsrSettings

log = structlog.get_logger()
_ENGINE = "faster-whisper"
# Every multilingual Whisper has at least this many tokens, every English one fewer.
_MULTILINGUAL_TOKENS = 51_865


class ModelList:
    """Models of the settings, and those that the trainer published.

    The object store is looked at with every request for a published one, so that a model that was trained a moment ago
    can be used at once. A published model does not hide one of the settings.

    Attributes:
        registry: of the published ones.
        folders: where those of the settings lie, by name, the default first.
    """

    def __init__(self, settings: AsrSettings) -> None:
        self._settings = settings
        self.registry = Registry(Objects(settings.objects_url), SPEECH_MODELS, ModelNotFound, "model")
        self.folders: dict[str, Path] = {}
        self._infos: dict[str, ModelInfo] = {}

    def load(self) -> None:
        """Finds the models of the settings.

        Raises:
            WeightsError, ModelNotFound: one of them is not here.
        """
        catalogue = Catalogue()
        licences = {entry.id: entry.licence for entry in catalogue}
        for model in self._settings.models:
            folder = catalogue.resolve(model, self._settings.common.models_dir)
            name = model if model in licences else folder.name
            self.folders[name] = folder
            self._infos[name] = ModelInfo(
                name,
                "transcription",
                _ENGINE,
                licences.get(model, ""),
                languages_of(folder),
                is_default=not self._infos,
            )

    def infos(self) -> dict[str, ModelInfo]:
        """What can be asked for now, by name, the default first; blocks while it asks the object store."""
        try:
            published = asyncio.run(self.registry.entries())
        except NarrativeError as error:
            # That must not keep anybody from the models of the settings.
            log.warning("published models cannot be listed", error=error.message)
            published = []
        found = {entry.name: _info(entry) for entry in published if entry.name not in self._infos}
        return self._infos | {name: info for name, info in found.items() if info is not None}

    def info(self, name: str) -> ModelInfo:
        """One of them; "" is the default.

        Raises:
            ModelNotFound: names those there are.
        """
        if not name or name in self._infos:
            return self._infos[name or next(iter(self._infos))]
        try:
            info = _info(asyncio.run(self.registry.entry(name)))
        except (NotFound, InvalidParameter):
            info = None
        if info is None:
            infos = self.infos()
            check_model(name, infos)
            return infos[name]
        return info


def languages_of(folder: Path) -> tuple[str, ...]:
    """ISO 639-1 codes that a model in CTranslate2 form understands.

    Raises:
        WeightsError: the folder holds no model.
    """
    try:
        text = next(folder.glob("vocabulary.*")).read_text(encoding="utf-8")
        tokens = json.loads(text) if text.startswith("[") else text.splitlines()
    except (StopIteration, OSError, ValueError) as error:
        raise WeightsError(f"{folder} cannot be loaded as a Whisper model: it has no readable vocabulary") from error
    return _LANGUAGE_CODES if len(tokens) >= _MULTILINGUAL_TOKENS else ("en",)


def _info(entry: Entry) -> ModelInfo | None:
    """What is told of a published model; None where its card says too little to use it."""
    try:
        languages = tuple(map(str, entry.description["languages"]))
    except (KeyError, TypeError) as error:
        log.warning("published model left out", model=entry.name, error=repr(error))
        return None
    return ModelInfo(entry.name, "transcription", _ENGINE, str(entry.description.get("licence", "")), languages)
