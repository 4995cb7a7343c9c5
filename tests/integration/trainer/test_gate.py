"""Publishing above set scores only, on a tiny random model that draws and judges."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from narrative.errors import NotFound
from narrative.objects import Objects
from narrative.registry import ADAPTERS, Registry
from tests.integration.trainer.conftest import Train

# diffusers 0.42 makes an array of a tensor the old way, and peft 0.21 looks at deprecated attributes.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def settings(palette: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("NARRATIVE_DATA_DIR", str(tmp_path / "data"))
    return {
        "dataset_dir": palette, "model_id": tiny / "sd", "feature_model": tiny / "sd", "resolution": 64, "name": "seal",
        "num_train_epochs": 1, "measured_pictures": 2,
    }  # fmt: skip


def adapters(tmp_path: Path) -> Registry:
    return Registry(Objects(str(tmp_path / "data" / "objects")), ADAPTERS)


def test_what_meets_every_requirement_is_published_with_its_scores(
    train: Train, settings: dict[str, Any], tmp_path: Path
) -> None:
    trained = train("style", **settings, require=["similarity>=-1", "similarity_gain<=2"])
    assert trained.status == 0, trained.result
    assert trained.result["adapter"] == "seal"
    scores = trained.result["scores"]
    assert -1 <= scores["similarity"] <= 1
    assert scores.keys() == {"similarity", "similarity_gain"}
    about = asyncio.run(adapters(tmp_path).entry("seal")).description
    assert about["metrics"] == scores
    measured = tmp_path / "data" / "trained" / "seal.run" / "measured"
    assert [len(list((measured / name).iterdir())) for name in ("real", "base", "adapter")] == [3, 2, 2]


def test_what_misses_one_is_kept_and_not_published(train: Train, settings: dict[str, Any], tmp_path: Path) -> None:
    trained = train("style", **settings, require=["similarity>1.5", "similarity>=-1"])
    assert trained.status == 0
    assert trained.result["unmetRequirements"] == [
        f"similarity>1.5 (measured {trained.result['scores']['similarity']:.4g})"
    ]
    assert "adapter" not in trained.result
    assert trained.events("note")[-1]["message"].startswith("not published: similarity>1.5")
    kept = tmp_path / "data" / "trained" / "seal"
    assert trained.result["outputDir"] == str(kept)
    assert json.loads((kept / "training.json").read_text())["metrics"] == trained.result["scores"]
    with pytest.raises(NotFound):
        asyncio.run(adapters(tmp_path).entry("seal"))


@pytest.mark.parametrize(
    ("require", "message"),
    [(["beauty>1"], "'beauty' is not measured here"), (["similarity"], "write for example")],
)
def test_what_is_no_requirement_is_said_before_anything_is_trained(
    train: Train, settings: dict[str, Any], tmp_path: Path, require: list[str], message: str
) -> None:
    trained = train("style", **settings, require=require)
    assert trained.status == 1
    assert message in trained.result["error"]
    assert not (tmp_path / "data").exists()
