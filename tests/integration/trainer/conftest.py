"""Trainings from the command line, in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import pytest

from services.trainer import cli
from tests.tiny_models import make_tiny_models


class Trained(NamedTuple):
    """What a training left: exit status, JSON of standard output, text of standard error."""

    status: int
    result: dict[str, Any]
    said: str

    def events(self, kind: str) -> list[dict[str, Any]]:
        """JSON lines of progress of one kind."""
        lines = [json.loads(line) for line in self.said.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == kind]


Train = Callable[..., Trained]


@pytest.fixture
def train(capsys: pytest.CaptureFixture[str]) -> Train:
    """Runs a recipe; settings are keyword arguments."""

    def run(recipe: str, **settings: Any) -> Trained:
        # Tests share their cores: two threads that wait for one core spin ten times as long as one works.
        chosen = {"progress": "json", "tensorboard": False, "device": "cpu", "num_threads": 1, **settings}
        flags = [
            f"--{name.replace('_', '-')}={','.join(value) if isinstance(value, list) else value}"
            for name, value in chosen.items()
        ]
        capsys.readouterr()
        status = cli.main([recipe, *flags])
        written = capsys.readouterr()
        return Trained(status, json.loads(written.out), written.err)

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the tiny models sd, sdxl, flux and pix2pix."""
    return make_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def palette(tmp_path: Path) -> Path:
    """Three pictures, red and blue, of different shapes."""
    folder = tmp_path / "palette"
    folder.mkdir()
    for index, (width, height) in enumerate([(96, 96), (128, 80), (70, 100)]):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[:, : width // 2] = (220, 20 * index, 30)
        pixels[:, width // 2 :] = (20, 30, 220 - 20 * index)
        PIL.Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder
