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
    assert local("whisper_lora", publish_as="my-voice")["dataset"] == "/jobs/1/data"
    for recipe in ("whisper_lora", "pix2pix"):
        assert local(recipe, publishAs="mine")["output_dir"] == "/jobs/1/result"
    assert local("dreambooth")["instance_data_dir"] == "/jobs/1/data"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"dataset_dir": "/etc"}, "dataset_dir"),
        ({"datasetDir": "../../etc"}, "datasetDir"),
        ({"dataset_dir": "a\\..\\b"}, "dataset_dir"),
        ({"dataset_dir": 5}, "dataset_dir"),
        ({"outputDir": "/etc"}, "outputDir"),
        ({"run_dir": "x"}, "run_dir"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint"),
        ({"model_id": "/etc"}, "model_id"),
        ({"model_id": "~/x"}, "model_id"),
        ({"rank": 0}, "rank"),
        ({"trainBatchSize": 0}, "trainBatchSize"),
        ({"dataloader_num_workers": 100_000}, "dataloader_num_workers"),
        ({"model_id": "storybok"}, "model_id"),
        ({"modelId": "a/b/c"}, "modelId"),
        ({"model_id": ".."}, "model_id"),
        ({"feature_model": "someone/else"}, "feature_model"),
        ({"rank\0": 4}, "rank\0"),
        ({"name": "../x"}, "name"),
        ({"resolutoin": 64}, "resolutoin"),
    ],
)
def test_what_is_refused_is_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        local(**settings)
    assert caught.value.field == field
    assert caught.value.message.startswith((field, repr(field)))
    assert caught.value.message.isprintable()


def test_a_hub_may_have_what_the_catalogue_has_not() -> None:
    assert local(model_id="CompVis/stable-diffusion-v1-4")["model_id"] == "CompVis/stable-diffusion-v1-4"
    assert local(model_id="storybook")["model_id"] == "storybook"
    with pytest.raises(InvalidParameter, match="base_model: there is no model 'openai/whisper'"):
        local("whisper_lora", publish_as="my-voice", base_model="openai/whisper")


def test_a_setting_that_is_none_is_told_with_where_to_find_those_there_are() -> None:
    with pytest.raises(InvalidParameter, match=r"^resolutoin is not a setting; did you mean resolution\?$"):
        local(resolutoin=64)
    with pytest.raises(InvalidParameter, match=r"^colour is not a setting; GET /v1/recipes lists those there are$"):
        local(colour=64)


@pytest.mark.parametrize("recipe", ["dreambooth", "pix2pix"])
@pytest.mark.parametrize("setting", ["dataset_name", "datasetConfigName", "dataset_split", "image_column"])
def test_the_data_is_what_was_uploaded(recipe: str, setting: str) -> None:
    with pytest.raises(InvalidParameter, match=f"^{setting} is not a setting") as caught:
        local(recipe, **{setting: "cats"})
    assert caught.value.field == setting


@pytest.mark.parametrize("recipe", ["whisper_lora", "pix2pix"])
@pytest.mark.parametrize("settings", [{}, {"publish_as": ""}, {"publishAs": None}])
def test_what_could_not_be_fetched_has_to_be_published(recipe: str, settings: dict[str, Any]) -> None:
    field = next(iter(settings), "publish_as")
    with pytest.raises(InvalidParameter, match=f"^{field} is needed") as caught:
        local(recipe, **settings)
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
    for recipe in ("dreambooth", "pix2pix"):
        names = json.loads(offered[recipe].settings_schema)["properties"].keys()
        assert "random_flip" in names
        assert not {"dataset_name", "dataset_config_name", "dataset_split", "image_column"} & names
    for recipe in ("whisper_lora", "pix2pix"):
        schema = json.loads(offered[recipe].settings_schema)
        assert schema["required"] == ["publish_as"]
        published = schema["properties"]["publish_as"]
        assert published["minLength"] == 1
        assert "default" not in published
        assert "empty" not in published["description"]


def test_the_service_needs_no_torch() -> None:
    program = (
        "import sys; from services.trainer import recipe_settings, servicer, engine_process; "
        "recipe_settings.offered(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
