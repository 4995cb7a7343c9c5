"""Trainings behind a grid: what differs in its steps only is one run, where that gives the same weights."""

import sys
from pathlib import Path

import pytest

from services.trainer.grid import trainings as grid_trainings
from services.trainer.grid.plan import Cell
from services.trainer.grid.trainings import Trainings


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "pim.yaml"
    file.write_text("instance_data_dir: pim\ninstance_prompt: pim\ncheckpointing_steps: 500\n")
    return file


def checkpoint(run_dir: Path, step: int) -> Path:
    path = run_dir / "checkpoints" / f"step-{step:08d}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_more_steps_go_on_from_fewer(settings: Path, tmp_path: Path) -> None:
    trainings = Trainings("dreambooth", settings, tmp_path / "trainings")
    run_dir = tmp_path / "trainings" / "rank-4.run"
    first = trainings.run_settings(Cell(rank=4, steps=250))
    assert first == {
        "run_dir": str(run_dir),
        "keep_checkpoints": True,
        "checkpointing_steps": 250,
        "resume_from_checkpoint": "never",
    }
    early, late = checkpoint(run_dir, 250), checkpoint(run_dir, 1000)
    going_on = [
        trainings.run_settings(Cell(rank=4, steps=steps))["resume_from_checkpoint"] for steps in (100, 600, 5000)
    ]
    assert going_on == ["never", str(early), str(late)]
    assert trainings.run_settings(Cell(rank=8, steps=5000))["resume_from_checkpoint"] == "never"


def test_a_rate_that_falls_to_the_last_step_is_trained_whole(settings: Path, tmp_path: Path) -> None:
    settings.write_text(f"{settings.read_text()}lr_scheduler: linear\n")
    trainings = Trainings("dreambooth", settings, tmp_path / "trainings")
    assert trainings.run_settings(Cell(steps=250)) == {"run_dir": None}
    assert trainings.run_settings(Cell(rank=4)) == {"run_dir": None}


TALKATIVE = """
import signal, sys
from pathlib import Path

def save(*_):
    print("more than a pipe holds " * 10_000, file=sys.stderr, flush=True)
    Path(sys.argv[1]).write_text("checkpoint")
    raise SystemExit(143)

signal.signal(signal.SIGTERM, save)
print("step 1", file=sys.stderr, flush=True)
signal.pause()
"""


def test_a_training_whose_grid_is_stopped_is_heard_out_until_its_checkpoint_is_there(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "saved"
    monkeypatch.setattr(grid_trainings, "COMMAND", [sys.executable, "-c", TALKATIVE, str(saved)])

    def stop(_: str) -> None:
        # What the grid's command does on SIGTERM.
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        Trainings("dreambooth", settings, tmp_path / "trainings").train(Cell(rank=4), stop)
    assert saved.read_text() == "checkpoint"
