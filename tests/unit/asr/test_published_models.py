"""Models that the trainer published, as far as no weights are needed."""

import asyncio
import json
from pathlib import Path

import pytest

from narrative.errors import ModelNotFound, WeightsError
from narrative.objects import Objects
from narrative.registry import SPEECH_MODELS, Registry
from services.asr.models import CARD, TranscriptionModels
from services.asr.settings import AsrSettings


def publish(folder: Path, name: str, card: dict[str, object]) -> None:
    file = folder / CARD
    file.write_text(json.dumps(card), encoding="utf-8")
    asyncio.run(Registry(Objects(str(folder / "objects")), SPEECH_MODELS).publish(name, {CARD: file}, card))


@pytest.fixture
def models(tmp_path):
    store, copies = str(tmp_path / "objects"), tmp_path / "copies"
    return TranscriptionModels(AsrSettings(published_dir=copies, object_store_url=store))


def test_a_model_is_seen_as_soon_as_it_is_published(models, tmp_path):
    assert models.infos() == {}
    publish(tmp_path, "my-voice", {"languages": ["en", "ru"], "licence": "MIT"})
    assert list(models.infos()) == ["my-voice"]
    info = models.info("my-voice")
    assert (info.languages, info.licence, info.is_default) == (("en", "ru"), "MIT", False)


@pytest.mark.parametrize("card", [{}, {"licence": "MIT"}, {"languages": 3}])
def test_a_card_that_says_nothing_is_left_out(models, tmp_path, card):
    publish(tmp_path, "odd", card)
    assert models.infos() == {}


def test_an_unknown_model_names_those_there_are(models, tmp_path):
    publish(tmp_path, "my-voice", {"languages": ["en"]})
    with pytest.raises(ModelNotFound, match="there are my-voice"):
        models.info("../my-voice")


def test_a_card_without_weights_is_an_error_that_names_the_folder(models, tmp_path):
    publish(tmp_path, "hollow", {"languages": ["en"]})
    with pytest.raises(WeightsError, match="hollow cannot be loaded"):
        models.open("hollow")
