"""Settings that come over the network."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from narrative.errors import InvalidParameter
from services.trainer import recipe_settings

JOB = Path("/jobs/1")


def local(recipe: str = "style", **settings: Any) -> dict[str, Any]:
    return recipe_settings.local_settings(recipe, json.dumps(settings), JOB)


def test_folders_are_the_services_own() -> None:
    values = local(trainBatchSize=2, rank=4)
    assert values == {
        "dataset_dir": "/jobs/1/data",
        "train_batch_size": 2,
        "rank": 4,
        "run_dir": "/jobs/1/run",
        "progress": "json",
        "tensorboard": False,
    }
    assert local(dataset_dir="cats/red")["dataset_dir"] == "/jobs/1/data/cats/red"
    assert local("whisper_lora")["dataset"] == "/jobs/1/data"
    assert local("whisper_lora")["output_dir"] == local("pix2pix")["output_dir"] == "/jobs/1/result"
    assert local("dreambooth")["instance_data_dir"] == "/jobs/1/data"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"dataset_dir": "/etc"}, "dataset_dir"),
        ({"datasetDir": "../../etc"}, "dataset_dir"),
        ({"dataset_dir": "a\\..\\b"}, "dataset_dir"),
        ({"dataset_dir": 5}, "dataset_dir"),
        ({"outputDir": "/etc"}, "output_dir"),
        ({"run_dir": "x"}, "run_dir"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint"),
        ({"model_id": "/etc"}, "model_id"),
        ({"model_id": "~/x"}, "model_id"),
        ({"rank": 0}, "rank"),
        ({"name": "../x"}, "name"),
        ({"resolutoin": 64}, "resolutoin"),
    ],
)
def test_what_is_refused_is_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        local(**settings)
    assert caught.value.field == field


@pytest.mark.parametrize("settings", ["[]", "{", "5", '"x"'])
def test_settings_are_an_object(settings: str) -> None:
    with pytest.raises(InvalidParameter):
        recipe_settings.local_settings("style", settings, JOB)


def test_recipes_show_what_may_be_set() -> None:
    offered = {recipe.name: recipe for recipe in recipe_settings.offered()}
    assert {"style", "whisper_lora"} <= offered.keys()
    schema = json.loads(offered["style"].settings_schema)
    assert schema["properties"]["rank"]["default"] == 16
    assert not {"output_dir", "run_dir", "progress"} & schema["properties"].keys()
    assert "dataset_dir" not in schema["required"]
    assert offered["style"].summary.startswith("A style")


def test_the_service_needs_no_torch() -> None:
    program = (
        "import sys; from services.trainer import recipe_settings, servicer, engine_process; "
        "recipe_settings.offered(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
