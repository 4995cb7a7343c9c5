"""An engine around a program that stands for a training, and a data set in an object store."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from narrative.settings import CommonSettings
from services.trainer.engine import Training
from services.trainer.engine_process import ProcessEngine
from services.trainer.settings import TrainerSettings

PROGRAM = Path(__file__).parent / "programs" / "training.py"


@pytest.fixture
def settings(tmp_path: Path) -> TrainerSettings:
    return TrainerSettings(common=CommonSettings(data_dir=tmp_path), stop_s=10.0)


@pytest.fixture
def engine(settings: TrainerSettings, tmp_path: Path) -> ProcessEngine:
    for name in ("a.png", "more/b c.png"):
        file = tmp_path / "objects" / "datasets" / "d1" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"picture")
    engine = ProcessEngine(settings, [sys.executable, str(PROGRAM)])
    engine.load()
    return engine


@pytest.fixture
def training() -> Callable[..., Training]:
    """Makes a training of the program; `end` says how it ends."""

    def make(end: str = "", steps: int = 3, job_id: str = "0" * 31 + "1", dataset: str = "datasets/d1") -> Training:
        values = {"max_train_steps": steps, "licence": end, "name": "seal"}
        return Training(job_id, "style", json.dumps(values), dataset)

    return make
