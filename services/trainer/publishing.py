"""Results into the object store, where the other services find them by name."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from narrative.objects import Objects
from narrative.registry import SPEECH_MODELS, LocalCopies, Registry
from services.trainer.settings import TrainerSettings


def publish(kind: str, name: str, files: Mapping[str, Path], description: Mapping[str, Any]) -> None:
    """Publishes files under a name; an earlier entry of that name is replaced.

    Args:
        kind: ``ADAPTERS``, ``SPEECH_MODELS`` or ``PICTURE_MODELS`` of ``narrative.registry``.
    """
    registry = Registry(Objects(TrainerSettings().objects_url), kind)
    asyncio.run(registry.publish(name, files, description))


def published_speech_model(name: str) -> Path:
    """The folder of a published Whisper, copied here where it was not.

    Raises:
        NotFound: there is none of that name.
    """
    settings = TrainerSettings()
    registry = Registry(Objects(settings.objects_url), SPEECH_MODELS)
    return asyncio.run(LocalCopies(registry, settings.common.data_dir / "speech-model-copies").folder_of(name))
