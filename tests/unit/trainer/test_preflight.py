"""What is wrong with the data or the base is said before torch is imported."""

import json
import subprocess
import sys

import pytest

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
    ],
)
def test_it_is_named_at_once(arguments: list[str], error: str, field: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    answer, ended = done.stdout.splitlines()
    assert ended == "1 []"
    told = json.loads(answer)
    assert (told["errorType"], told["field"]) == (error, field)
