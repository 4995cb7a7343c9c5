"""Trainings that go wrong on the way: one line that says why, a status, and no half-written artifact."""

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
