"""What is wrong with the data or the base is said before torch is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from narrative.catalogue import Catalogue
from narrative.errors import InvalidParameter, WeightsMissing
from services.trainer import preflight
from services.trainer.recipes.style.config import Config

PROGRAM = """
import sys
from services.trainer import cli
status = cli.main(sys.argv[1:])
print(status, sorted({"torch", "transformers", "datasets"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("arguments", "error", "field"),
    [
        (["style", "--dataset-dir", "nowhere"], "DatasetInvalid", "dataset_dir"),
        (["pix2pix", "--data-dir", "nowhere", "--output-dir", "out"], "DatasetInvalid", "data_dir"),
        (["whisper_lora", "--dataset", "./nowhere", "--output-dir", "out"], "DatasetInvalid", "dataset"),
        (["style", "--dataset-dir", ".", "--model-id", "storybok"], "ModelNotFound", "model_id"),
        (["style", "--dataset-dir", ".", "--model-id", "./nowhere"], "ModelNotFound", "model_id"),
        (
            ["whisper_lora", "--dataset", ".", "--output-dir", "out", "--base-model", "a/b"],
            "ModelNotFound",
            "base_model",
        ),
        (["style", "--dataset-dir", ".", "--output-dir", f"{__file__}/x/y"], "InvalidParameter", "output_dir"),
        (["style", "--dataset-dir", ".", "--output-dir", "/proc/zzz"], "InvalidParameter", "output_dir"),
        (["style", "--dataset-dir", ".", "--output-dir", "x" * 250], "InvalidParameter", "output_dir"),
        (["style", "--dataset-dir", ".", "--output-dir", "."], "InvalidParameter", "output_dir"),
        (["style", "--dataset-dir", ".", "--run-dir", f"{__file__}/x"], "InvalidParameter", "run_dir"),
    ],
)
def test_it_is_named_at_once(arguments: list[str], error: str, field: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    answer, ended = done.stdout.splitlines()
    assert ended == "1 []"
    told = json.loads(answer)
    assert (told["errorType"], told["field"]) == (error, field)


def test_weights_are_missed_but_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("it takes seconds to read weights")

    monkeypatch.setenv("NARRATIVE_MODELS_DIR", str(tmp_path))
    config = Config(dataset_dir=tmp_path, model_id="sd-v1-5")
    with pytest.raises(WeightsMissing, match="narrate models pull sd-v1-5"):
        preflight.check(config)
    monkeypatch.setattr(Catalogue, "verify", read)
    (tmp_path / "sd-v1-5").mkdir()
    preflight.check(config)


def test_places_that_will_be_made_are_not_made_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARRATIVE_TRAINER__RESULTS_DIR", str(tmp_path / "results"))
    preflight.check(Config(dataset_dir=tmp_path, model_id="storybook", run_dir=tmp_path / "a" / "run"))
    preflight.check(Config(dataset_dir=tmp_path, model_id="storybook", output_dir=tmp_path / "b" / "out"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "results").write_text("no folder")
    with pytest.raises(InvalidParameter, match=r"results/adapter: nothing can be written there: Not a directory"):
        preflight.check(Config(dataset_dir=tmp_path, model_id="storybook"))
