"""Flags, YAML and JSON to a configuration."""

import io
import json
from pathlib import Path

import pytest
from pydantic import Field

from narrative.errors import InvalidParameter
from services.trainer.arguments import read_config
from services.trainer.config import RecipeConfig


class Config(RecipeConfig):
    target_modules: list[str] = Field(default_factory=lambda: ["to_q", "to_k"])
    gradient_checkpointing: bool = False


def test_names_may_be_written_in_three_ways() -> None:
    flags = ["--trainBatchSize", "2", "--num-train-epochs=3", "--learning_rate", "1e-3", "--gradient-checkpointing"]
    config = read_config(Config, [*flags, "--no-tensorboard", "--target-modules", "to_q,to_v"])
    assert (config.train_batch_size, config.num_train_epochs, config.learning_rate) == (2, 3, 1e-3)
    assert config.gradient_checkpointing
    assert not config.tensorboard
    assert config.target_modules == ["to_q", "to_v"]


def test_flags_win_over_json_and_json_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("learning_rate: 2e-4\nseed: 1\nnumTrainEpochs: 7\n")
    config = read_config(Config, ["--config", str(file), "--json", '{"seed": 2, "trainBatchSize": 4}', "--seed", "3"])
    assert (config.learning_rate, config.seed, config.num_train_epochs, config.train_batch_size) == (2e-4, 3, 7, 4)


def test_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"numTrainEpochs": 5}, indent="\t")))
    assert read_config(Config, ["--config", "-"]).num_train_epochs == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learnig-rate", "1"], r"--learnig-rate is not a setting; did you mean --learning-rate\?"),
        (
            ["--json", '{"numTrainEpoch": 1}'],
            r"--json: numTrainEpoch is not .*; did you mean num_train_epochs\?",
        ),
        (["--wholly-unknown", "1"], "--help lists those there are"),
        (["100"], "'100' stands alone"),
        (["--seed"], "--seed needs a value"),
        (["--seed", "x"], "seed: Input should be a valid integer"),
        (["--learning-rate", "nan"], "learning_rate: Input should be a finite number"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml: not readable"),
        (["--json", "[1]"], "settings by name are expected, not list"),
        (["--json", "{"], "neither YAML nor JSON"),
        (
            ["--num-train-epochs", "0", "--optimizer", "sgd"],
            r"(?s)num_train_epochs.*\noptimizer: .*'adamw'",
        ),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        read_config(Config, arguments)
