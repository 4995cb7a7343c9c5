"""Trainings that go wrong on the way: one line that says why, a status, and no half-written artifact."""

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.trainer.pictures.learner import AdapterLearner
from tests.integration.trainer.conftest import Train

# diffusers 0.42 makes an array of a tensor the old way, and peft 0.21 looks at deprecated attributes.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def settings(palette: Path, tiny: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "dataset_dir": palette, "model_id": tiny / "sd", "resolution": 64, "output_dir": tmp_path / "out",
        "max_train_steps": 4, "gradient_accumulation_steps": 1, "checkpointing_steps": 2,
    }  # fmt: skip


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """As on a disk that has no room for more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_loss_that_is_no_number_leaves_nothing(train: Train, settings: dict[str, Any], tmp_path: Path) -> None:
    trained = train("style", **settings | {"learning_rate": 1e30, "max_train_steps": 50}, max_grad_norm=0)
    assert trained.status == 1
    assert trained.result["errorType"] == "TrainingDiverged"
    assert "lower learning_rate (now 1e+30)" in trained.result["error"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("room", [2_000, 20_000])
def test_a_full_disk_is_named_and_leaves_nothing(
    train: Train, settings: dict[str, Any], tmp_path: Path, room: int
) -> None:
    with files_of_at_most(room):
        trained = train("style", **settings)
    assert trained.status == 1
    assert trained.result["errorType"] == "DiskFull", trained.result
    assert str(tmp_path / "out") in trained.result["error"]
    assert not (tmp_path / "out").exists()
    # With room again the same command goes on.
    assert train("style", **settings).status == 0


@pytest.mark.parametrize("recipe", ["style", "pix2pix"])
def test_a_disk_that_is_full_for_the_result_is_named_and_leaves_nothing(
    train: Train, settings: dict[str, Any], tmp_path: Path, recipe: str
) -> None:
    if recipe == "pix2pix":
        row = {"input_image": "0.png", "edit_prompt": "bluer", "edited_image": "1.png"}
        (settings["dataset_dir"] / "metadata.jsonl").write_text(json.dumps(row))
        settings["data_dir"] = settings.pop("dataset_dir")
    # Nothing is written on the way that is larger than the result.
    settings |= {"checkpointing_steps": 500, "cache_latents": False}
    with files_of_at_most(60_000):
        trained = train(recipe, **settings)
    assert trained.status == 1
    assert trained.result["errorType"] == "DiskFull", trained.result
    assert f"no room to write {tmp_path / 'out'}: " in trained.result["error"]
    assert not [path for path in tmp_path.iterdir() if path.name not in ("palette", "out.run")]
    assert train(recipe, **settings).status == 0


def test_what_cannot_be_published_need_not_be_trained_again(
    train: Train, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARRATIVE_TRAINER__RESULTS_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("NARRATIVE_TRAINER__OBJECT_STORE_URL", str(tmp_path / "objects"))
    del settings["output_dir"]
    settings |= {"log_steps": 1, "checkpointing_steps": 500}
    (tmp_path / "objects").write_text("no folder")
    trained = train("style", **settings)
    assert trained.status == 1
    assert len(trained.events("step")) == 4
    (tmp_path / "objects").unlink()
    again = train("style", **settings)
    assert (again.status, again.result.get("adapter")) == (0, "artist_seal"), again.result
    assert not again.events("step")
    assert "going on from" in again.said
    assert not (tmp_path / "results" / "artist_seal.run").exists()


def test_memory_that_runs_out_is_told_with_what_to_lower(
    train: Train, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(_: AdapterLearner, batch: Any) -> Any:
        return batch["pictures"].new_empty(2**56)

    monkeypatch.setattr(AdapterLearner, "forward", too_much)
    trained = train("style", **settings)
    assert trained.status == 1
    assert trained.result["errorType"] == "OutOfMemory"
    assert "lower train_batch_size" in trained.result["error"]
    assert not (tmp_path / "out").exists()
