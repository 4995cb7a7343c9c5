"""The trainings behind a grid: one by a recipe of the trainer for every learning rate, rank and number of steps."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from narrative.errors import Cancelled, InvalidParameter, NarrativeError, NotFound, named_error
from services.trainer import cli
from services.trainer.arguments import read_config
from services.trainer.artifacts import DESCRIPTION_NAME
from services.trainer.command_line import INTERRUPTED, STOPPED
from services.trainer.config import RecipeConfig
from services.trainer.grid.plan import Cell
from services.trainer.pictures.config import AdapterConfig
from services.trainer.resume import checkpoints_dir, steps_done

COMMAND = (sys.executable, "-m", "services.trainer.cli")


class Trainings:
    """Trainings of one recipe that differ in what a grid goes over; each is a process of its own.

    Args:
        settings: file of the settings that all share.
        folder: where adapters go, each in a folder named after its values; one that is there is not trained again.

    Raises:
        NotFound: no such recipe.
        InvalidParameter: it trains no adapter for pictures.
    """

    def __init__(self, recipe: str, settings: Path, folder: Path) -> None:
        if recipe not in cli.names():
            raise NotFound(f"no recipe {recipe!r}; there are {', '.join(cli.names())}", field="recipe")
        config: type[RecipeConfig] = importlib.import_module(f"services.trainer.recipes.{recipe}.config").Config
        if not issubclass(config, AdapterConfig):
            raise InvalidParameter(f"recipe {recipe} trains no adapter that pictures are drawn with", field="recipe")
        self._recipe, self._config, self._settings, self._folder = recipe, config, settings, folder

    def config(self, cell: Cell) -> AdapterConfig:
        """The configuration of a cell's training.

        Raises:
            InvalidParameter: a setting that does not exist, or a value that is not accepted.
        """
        config = read_config(self._config, self._arguments(cell.trained()))
        assert isinstance(config, AdapterConfig)
        return config

    def adapter(self, cell: Cell) -> Path:
        """Folder of a cell's adapter, whether it is there or not."""
        return self._folder / _name(cell.trained())

    def is_done(self, cell: Cell) -> bool:
        """Whether a cell's adapter is there."""
        return (self.adapter(cell) / DESCRIPTION_NAME).is_file()

    def train(self, cell: Cell, report: Callable[[str], None]) -> None:
        """Trains a cell's adapter, or goes on with it where a run was stopped, or where one of fewer steps ended.

        Raises:
            Cancelled: it was stopped; the same call goes on from there.
            NarrativeError: what the recipe raised.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        folder = self.adapter(cell)
        values = {**cell.trained(), "output_dir": str(folder), **self.run_settings(cell)}
        with (
            subprocess.Popen(
                [
                    *COMMAND,
                    self._recipe,
                    *self._arguments(values),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as child,
            folder.with_name(f"{folder.name}.log").open("a", encoding="utf-8", buffering=1) as log,
        ):
            assert child.stdout is not None
            assert child.stderr is not None
            try:
                for line in child.stderr:
                    log.write(line)
                    report(line.rstrip())
                answer = child.stdout.read()
            except BaseException:
                # It saves a checkpoint, and says so: somebody must listen, or it dies of a broken pipe before.
                child.terminate()
                _, rest = child.communicate()
                log.write(rest)
                raise
        if child.returncode:
            raise _error(child.returncode, answer, folder)

    def run_settings(self, cell: Cell) -> dict[str, Any]:
        """Settings of a cell's run: at a constant rate, what differs in its steps only is one run."""
        config, values = self.config(cell), cell.trained()
        steps = values.pop("max_train_steps", None)
        if steps is None or config.lr_scheduler != "constant":
            return {"run_dir": None}
        run_dir = self._folder / f"{_name(values)}.run"
        passed = [path for path in checkpoints_dir(run_dir).glob("step-*.pt") if steps_done(path) <= steps]
        return {
            "run_dir": str(run_dir),
            "keep_checkpoints": True,
            "checkpointing_steps": min(config.checkpointing_steps, steps),
            "resume_from_checkpoint": str(max(passed)) if passed else "never",
        }

    def _arguments(self, values: Mapping[str, Any]) -> list[str]:
        return ["--config", str(self._settings), "--json", json.dumps(dict(values))]


def _name(values: Mapping[str, Any]) -> str:
    return "_".join(f"{name.replace('_', '-')}-{value:g}" for name, value in values.items()) or "all"


def _error(status: int, answer: str, folder: Path) -> NarrativeError:
    try:
        result = json.loads(answer)
    except ValueError:
        result = {}
    if status in (STOPPED, INTERRUPTED) or status < 0:
        return Cancelled("the training was stopped; run the same command again to go on")
    message = f"{folder.name}: {result.get('error', f'the training ended with status {status}')}"
    return named_error(result.get("errorType", ""), message, field=result.get("field", ""))
