"""`narrate grid` on a tiny random model: real trainings, real pictures, nothing done twice."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from narrative.errors import AdapterNotFound, Conflict, InvalidParameter, TrainingDiverged
from services.trainer.grid import run
from services.trainer.grid.plan import make_grid
from services.trainer.grid.run import Order, draw_grid
from services.trainer.resume import steps_done
from tests.tiny_models import make_tiny_models

# diffusers 0.42 makes an array of a tensor the old way.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_models(tmp_path_factory.mktemp("models")) / "sd"


@pytest.fixture(scope="module")
def settings(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the settings of a training of one step."""
    folder = tmp_path_factory.mktemp("subject")
    PIL.Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    file = folder.parent / "settings.json"
    content = {
        "instance_data_dir": str(folder), "instance_prompt": "pim", "model_id": str(tiny), "resolution": 64,
        "max_train_steps": 1, "tensorboard": False, "device": "cpu", "num_threads": 1,
    }  # fmt: skip
    file.write_text(json.dumps(content))
    return file


def order(folder: Path, rows: str, columns: str, **more: Any) -> Order:
    fixed = {"prompt": "pim", "inference_steps": 2, **more.pop("fixed", {})}
    values: dict[str, Any] = {"model_id": "", "recipe": "", "settings": None, "sheet": folder / "sheet.png", **more}
    return Order(make_grid(rows, columns, fixed), folder, tile_px=64, **values)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(PIL.Image.open(path)).astype(int)


def test_every_learning_rate_is_a_training_and_nothing_is_done_twice(
    settings: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, said = tmp_path / "grid", list[str]()
    asked = order(folder, "learning-rate=1e-3,1", "seed=0,1", recipe="dreambooth", settings=settings)
    assert draw_grid(asked, 1, said.append) == folder / "sheet.png"
    names = ("learning-rate-0.001", "learning-rate-1")
    assert all((folder / "trainings" / name / "training.json").is_file() for name in names)
    assert all((folder / "trainings" / f"{name}.log").is_file() for name in names)
    assert any(line.startswith("training 2 of 2, learning-rate-1: step 1/1") for line in said)
    cells = {path.stem: pixels(path) for path in (folder / "cells").glob("*.png")}
    assert len(cells) == 4
    assert (cells["learning-rate-1_seed-0"] != cells["learning-rate-1e-3_seed-0"]).any()
    assert (cells["learning-rate-1_seed-0"] != cells["learning-rate-1_seed-1"]).any()
    with PIL.Image.open(folder / "cells" / "learning-rate-1_seed-1.png") as picture:
        assert json.loads(picture.text["parameters"])["learning_rate"] == 1.0

    # One more value: one training and two pictures are new, the others stay as they are.
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png") if path.parent.name == "cells"}
    (folder / "cells" / "learning-rate-1_seed-0.png").unlink()
    said.clear()
    draw_grid(
        order(folder, "learning-rate=1e-3,1", "seed=0,1,2", recipe="dreambooth", settings=settings), 1, said.append
    )
    assert [line for line in said if line.startswith("training")] == []
    assert len([line for line in said if line.startswith("drawing")]) == 3
    assert (pixels(folder / "cells" / "learning-rate-1_seed-0.png") == cells["learning-rate-1_seed-0"]).all()
    unchanged = [path for path, when in before.items() if path.stat().st_mtime_ns == when]
    assert len(unchanged) == 3

    # All there: not even the model is loaded.
    monkeypatch.setattr(run, "Studio", None)
    draw_grid(asked, 1, said.append)

    adapter = str(folder / "trainings" / "learning-rate-1")
    with pytest.raises(Conflict, match="other rows"):
        draw_grid(order(folder, "guidance=1,2", "seed=0,1", model_id=str(tiny)), 1, said.append)
    with pytest.raises(Conflict, match="something else than a grid"):
        draw_grid(order(tmp_path, "guidance=1,2", "seed=0,1", model_id=str(tiny)), 1, said.append)
    monkeypatch.undo()
    weighed = order(tmp_path / "weighed", "unet-scale=0,1", "seed=0", model_id=str(tiny), fixed={"adapter": adapter})
    draw_grid(weighed, 1, said.append)
    drawn = {path.stem: pixels(path) for path in (tmp_path / "weighed" / "cells").glob("*.png")}
    assert (drawn["unet-scale-1_seed-0"] == cells["learning-rate-1_seed-0"]).all()
    assert (drawn["unet-scale-0_seed-0"] != drawn["unet-scale-1_seed-0"]).any()
    text = order(tmp_path / "text", "text-encoder-scale=0,1", "seed=0", model_id=str(tiny), fixed={"adapter": adapter})
    with pytest.raises(InvalidParameter, match="does not change the text encoder"):
        draw_grid(text, 1, said.append)


def test_what_cannot_be_drawn_is_said_before_anything_is_trained(settings: Path, tiny: Path, tmp_path: Path) -> None:
    def refusal(rows: str, **more: Any) -> str:
        with pytest.raises((InvalidParameter, AdapterNotFound)) as raised:
            draw_grid(order(tmp_path / "grid", rows, "seed=0", **more), 1, lambda _: None)
        return raised.value.message

    assert "every value is a training; give --recipe" in refusal("rank=4,8")
    assert "belong together" in refusal("rank=4,8", recipe="dreambooth")
    assert "a recipe needs an axis to train over" in refusal("guidance=1", recipe="dreambooth", settings=settings)
    assert "trains no adapter" in refusal("rank=4", recipe="whisper_lora", settings=settings)
    assert "unet-scale weighs an adapter" in refusal("unet-scale=1")
    assert "leave adapter out" in refusal("rank=4", recipe="style", settings=settings, fixed={"adapter": "x"})
    assert "the settings train" in refusal("rank=4", recipe="dreambooth", settings=settings, model_id="storybook")
    assert "the sheet is a file" in refusal("guidance=1", sheet=tmp_path / "sheet.doc")
    assert "text_encoder_lr says nothing" in refusal("text-encoder-lr=1", recipe="dreambooth", settings=settings)
    assert not (tmp_path / "grid" / "trainings").exists()
    assert "no pytorch_lora_weights" in refusal("guidance=1", model_id=str(tiny), fixed={"adapter": str(tmp_path)})
    # Nothing was drawn, so the folder is free for what was meant.
    draw_grid(order(tmp_path / "grid", "guidance=1", "seed=0", model_id=str(tiny)), 1, lambda _: None)


@pytest.mark.slow
def test_a_grid_that_is_stopped_hears_its_training_out(settings: Path, tmp_path: Path) -> None:
    endless = tmp_path / "endless.json"
    more = {"max_train_steps": 1_000_000, "checkpointing_steps": 1_000_000, "log_steps": 1}
    endless.write_text(json.dumps(json.loads(settings.read_text()) | more))
    folder = tmp_path / "grid"
    log, run_dir = (folder / "trainings" / f"learning-rate-0.001.{ending}" for ending in ("log", "run"))
    axes = ("--rows", "learning-rate=1e-3", "--columns", "seed=0", "--prompt", "pim")
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "narrative.cli.main", "grid", folder, *axes),
            *("--recipe", "dreambooth", "--settings", endless),
        ],
        stderr=subprocess.DEVNULL,
    ) as grid:
        until_s = time.monotonic() + 200
        while not (log.is_file() and "step 3/" in log.read_text()):
            assert grid.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.05)
        grid.send_signal(signal.SIGTERM)
        assert grid.wait(timeout=60) == 143

    (checkpoint,) = (run_dir / "checkpoints").glob("step-*.pt")
    assert steps_done(checkpoint) >= 3
    assert f"stopped at step {steps_done(checkpoint)} of 1000000" in log.read_text()


def test_a_training_that_fails_is_named(settings: Path, tmp_path: Path) -> None:
    asked = order(tmp_path / "grid", "learning-rate=1e30", "steps=3", recipe="dreambooth", settings=settings)
    with pytest.raises(TrainingDiverged, match=r"learning-rate-1e\+30_max-train-steps-3: the loss became nan"):
        draw_grid(asked, 1, lambda _: None)
