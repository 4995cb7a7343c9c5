"""Models that settings name: one of the catalogue, a path, or, where a hub is asked, a repository of it."""

from collections.abc import Mapping
from pathlib import Path

from narrative.catalogue import Catalogue
from narrative.errors import InvalidParameter, ModelNotFound
from narrative.settings import CommonSettings

_PATH = ("/", ".", "~")
# Settings that name a model, and whether a hub may have it.
_SETTINGS = {
    "model_id": True,
    "base_model": False,
    "feature_model": False,
    "clip_model": False,
    "dino_model": False,
}


def is_of_hub(model: str, catalogue: Catalogue) -> bool:
    """Whether a name is neither in the catalogue nor a path, and may be a repository of a hub."""
    return not model.startswith(_PATH) and model.count("/") == 1 and model not in {entry.id for entry in catalogue}


def find_here(model: str, field: str) -> Path:
    """The folder of a model on this machine.

    Args:
        field: the setting, for errors.

    Raises:
        ModelNotFound: neither in the catalogue nor an existing path.
        WeightsMissing, WeightsCorrupt: it is to be pulled first; says how.
    """
    try:
        return Catalogue().resolve(model, CommonSettings().models_dir)
    except ModelNotFound as error:
        raise ModelNotFound(error.message, field=field) from error


def look_for(model: str, field: str) -> None:
    """Errors as ``find_here``, but weights that are there are not read, which takes a while."""
    catalogue = Catalogue()
    known = {entry.id: catalogue.location(entry, CommonSettings().models_dir) for entry in catalogue}
    if model not in known or not known[model].exists():
        find_here(model, field)


def check_names(config: object, written: Mapping[str, str]) -> None:
    """Refuses settings that name a model which no machine can have; for callers who cannot name paths.

    Args:
        config: of a recipe.
        written: how the caller wrote a setting's name, where otherwise than it is.

    Raises:
        InvalidParameter: names the setting, and the models of the catalogue.
    """
    catalogue = Catalogue()
    known = [entry.id for entry in catalogue]
    for field, from_hub in _SETTINGS.items():
        model = getattr(config, field, None)
        if model is None or model in known or (from_hub and is_of_hub(model, catalogue)):
            continue
        hub = ", and a hub's are called OWNER/NAME" if from_hub else ""
        setting = written.get(field, field)
        raise InvalidParameter(
            f"{setting}: there is no model {model[:80]!r}; the catalogue has {', '.join(known)}{hub}", field=setting
        )
