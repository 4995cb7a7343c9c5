"""From settings that came over the network to those of a training on this machine.

A caller knows nothing of this machine's folders: paths are names inside the data set, what the service decides itself
(where results and checkpoints go) is refused, and so is whatever looks like a path of this machine.
"""

import importlib
import json
import pkgutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from narrative.errors import InvalidParameter, NotFound
from narrative.registry import ADAPTERS
from services.trainer import recipes
from services.trainer.arguments import names_of, validated
from services.trainer.base_models import check_names
from services.trainer.config import RecipeConfig
from services.trainer.engine import Recipe

# The setting that takes the data set; a recipe has the first of these that it knows.
_DATA_SETTINGS = ("dataset_dir", "instance_data_dir", "data_dir", "dataset")
# Decided by the service.
_OWN_SETTINGS = frozenset(
    {"output_dir", "run_dir", "resume_from_checkpoint", "progress", "tensorboard", "keep_checkpoints"}
)
# Of a data set that would be taken instead of the uploaded one, where a recipe can.
_HUB_SETTINGS = frozenset({"dataset_name", "dataset_config_name", "dataset_split", "image_column"})


def offered() -> list[Recipe]:
    """The recipes that learn from a data set, with what may be set."""
    return [
        Recipe(name, _summary(name), json.dumps(_schema(config), ensure_ascii=False))
        for name, config in _configs().items()
    ]


def local_settings(recipe: str, settings: str, folder: Path) -> dict[str, Any]:
    """The settings of one training, by name, as the command line takes them.

    Args:
        settings: JSON object, as the caller wrote it.
        folder: the job's own; the data set is in ``data``, checkpoints go to ``run``, and what is no adapter for
            pictures to ``result``.

    Raises:
        NotFound: no such recipe.
        InvalidParameter: a setting is unknown, refused or out of range; names it.
    """
    configs = _configs()
    if recipe not in configs:
        raise NotFound(f"no recipe {recipe!r}; there are {', '.join(configs)}", field="recipe")
    cls = configs[recipe]
    sent = _mapping(settings)
    names = names_of(cls, sent, hint="; GET /v1/recipes lists those there are")
    written = {name: one for one, name in names.items()}
    asked = {names[one]: value for one, value in sent.items()}
    for name in asked.keys() & _OWN_SETTINGS:
        raise InvalidParameter(f"{written[name]} is decided by the service; leave it out", field=written[name])
    for name in asked.keys() & _hub_settings(cls):
        raise InvalidParameter(
            f"{written[name]} is not a setting here: the data is the data set that was uploaded", field=written[name]
        )
    if _is_published_on_request(cls) and not asked.get("publish_as"):
        field = written.get("publish_as", "publish_as")
        raise InvalidParameter(f"{field} is needed: the name by which what is trained can be used", field=field)
    for name, value in asked.items():
        if isinstance(value, str) and name not in _path_settings(cls) and value.startswith(("/", "~", "./", "../")):
            raise InvalidParameter(
                f"{written[name]}: {value!r} looks like a path of the service's machine", field=written[name]
            )
    values = {_data_setting(cls): ".", **asked}
    for name in _path_settings(cls) & values.keys():
        values[name] = str(folder / "data" / _inside(written.get(name, name), values[name]))
    values |= {"run_dir": str(folder / "run"), "progress": "json", "tensorboard": False}
    if "name" not in cls.model_fields:
        # No adapter that is published under its name.
        values["output_dir"] = str(folder / "result")
    check_names(validated(cls, values, written), written)
    return values


def publishes(recipe: str, values: Mapping[str, Any]) -> str:
    """What a training with these settings publishes its result as, such as "adapters/seal"; "" where it does not.

    Args:
        values: as ``local_settings`` gives them.
    """
    config: Any = validated(_configs()[recipe], values)
    if "publish_as" in type(config).model_fields:
        return f"{config.published_kind}/{config.publish_as}" if config.publish_as else ""
    return f"{ADAPTERS}/{config.name}" if config.output_dir is None else ""


def _configs() -> dict[str, type[RecipeConfig]]:
    names = sorted(module.name for module in pkgutil.iter_modules(recipes.__path__) if module.ispkg)
    configs = {name: importlib.import_module(f"{recipes.__name__}.{name}.config").Config for name in names}
    return {name: config for name, config in configs.items() if _data_setting(config)}


def _summary(recipe: str) -> str:
    return (importlib.import_module(f"{recipes.__name__}.{recipe}").__doc__ or recipe).strip().splitlines()[0]


def _schema(cls: type[RecipeConfig]) -> dict[str, Any]:
    schema = cls.model_json_schema(by_alias=False)
    hidden = _OWN_SETTINGS | _hub_settings(cls)
    schema["properties"] = {name: field for name, field in schema["properties"].items() if name not in hidden}
    schema["required"] = [name for name in schema.get("required", []) if name in schema["properties"]]
    schema["required"] = [name for name in schema["required"] if name != _data_setting(cls)]
    if _is_published_on_request(cls):
        schema["required"].append("publish_as")
        field = schema["properties"]["publish_as"]
        del field["default"]
        field |= {"minLength": 1, "description": f"{field['description'].partition(';')[0]}."}
    return schema


def _hub_settings(cls: type[RecipeConfig]) -> frozenset[str]:
    return _HUB_SETTINGS & cls.model_fields.keys() if "dataset_name" in cls.model_fields else frozenset()


def _is_published_on_request(cls: type[RecipeConfig]) -> bool:
    """Whether the command line may keep the result to itself; over the network nobody could fetch it."""
    return "publish_as" in cls.model_fields


def _data_setting(cls: type[RecipeConfig]) -> str:
    return next((name for name in _DATA_SETTINGS if name in cls.model_fields), "")


def _path_settings(cls: type[RecipeConfig]) -> set[str]:
    paths = {
        name
        for name, field in cls.model_fields.items()
        if Path in (field.annotation, *get_args(field.annotation)) and name not in _OWN_SETTINGS
    }
    return paths | {_data_setting(cls)}


def _mapping(settings: str) -> dict[str, Any]:
    try:
        content = json.loads(settings or "{}")
    except ValueError as error:
        raise InvalidParameter(f"settings are no JSON: {error}", field="settings") from error
    if not isinstance(content, dict):
        raise InvalidParameter("settings are a JSON object of settings by name", field="settings")
    return content


def _inside(name: str, value: Any) -> str:
    path = PurePosixPath(value) if isinstance(value, str) and value else None
    if path is None or path.is_absolute() or ".." in path.parts or "\0" in str(path) or "\\" in str(path):
        raise InvalidParameter(
            f"{name}: {str(value)[:80]!r} is no path inside the data set, such as 'cats' or '.'", field=name
        )
    return str(path)
