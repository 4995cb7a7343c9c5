"""Models that the trainer published, as far as no weights are needed."""

import json
from pathlib import Path

import pytest

from narrative.errors import ModelNotFound, WeightsError
from services.asr.models import CARD, TranscriptionModels
from services.asr.settings import AsrSettings


def publish(folder: Path, name: str, card: object) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / CARD).write_text(card if isinstance(card, str) else json.dumps(card), encoding="utf-8")


@pytest.fixture
def models(tmp_path):
    return TranscriptionModels(AsrSettings(published_dir=tmp_path / "published"))


def test_a_folder_is_seen_as_soon_as_its_card_is_there(models, tmp_path):
    assert models.infos() == {}
    publish(tmp_path / "published", "my-voice", {"languages": ["en", "ru"], "licence": "MIT"})
    (tmp_path / "published" / "unfinished").mkdir()
    assert list(models.infos()) == ["my-voice"]
    info = models.info("my-voice")
    assert (info.languages, info.licence, info.is_default) == (("en", "ru"), "MIT", False)


@pytest.mark.parametrize("card", ["not json", [], {"licence": "MIT"}, {"languages": 3}])
def test_a_card_that_says_nothing_is_left_out(models, tmp_path, card):
    publish(tmp_path / "published", "odd", card)
    assert models.infos() == {}


def test_an_unknown_model_names_those_there_are(models, tmp_path):
    publish(tmp_path / "published", "my-voice", {"languages": ["en"]})
    with pytest.raises(ModelNotFound, match="there are my-voice"):
        models.info("../my-voice")


def test_a_card_without_weights_is_an_error_that_names_the_folder(models, tmp_path):
    publish(tmp_path / "published", "hollow", {"languages": ["en"]})
    with pytest.raises(WeightsError, match="hollow cannot be loaded"):
        models.open("hollow")
