"""What can be said of a training on this machine before torch is imported, which takes seconds."""

import tempfile
from pathlib import Path

from narrative.catalogue import Catalogue
from narrative.errors import DatasetInvalid, InvalidParameter
from services.trainer.base_models import is_of_hub, look_for
from services.trainer.config import RecipeConfig
from services.trainer.settings import TrainerSettings
from services.trainer.speech.sources import check_there

_FOLDERS = ("dataset_dir", "instance_data_dir", "data_dir", "validation_data_dir")


def check(config: RecipeConfig) -> None:
    """Looks whether the data and the base model are there, and whether the result can be written.

    Raises:
        InvalidParameter: nothing can be written where the result or the run's files belong.
        DatasetInvalid: there is no such folder, or file.
        ModelNotFound: no such base, here or in a catalogue.
        WeightsMissing: the base is to be pulled first; says how.
    """
    _check_places(config)
    for field in _FOLDERS:
        folder: Path | None = getattr(config, field, None)
        if folder is not None and not folder.is_dir():
            raise DatasetInvalid(f"{folder}: no such folder", field=field)
    if (dataset := getattr(config, "dataset", None)) is not None:
        check_there(dataset)
    model_id = getattr(config, "model_id", None)
    if model_id is not None and not is_of_hub(model_id, Catalogue()):
        look_for(model_id, "model_id")
    if (base_model := getattr(config, "base_model", None)) is not None:
        look_for(base_model, "base_model")


def _check_places(config: RecipeConfig) -> None:
    output_dir = config.output_dir or TrainerSettings().results_folder / "adapter"
    if not output_dir.name:
        raise InvalidParameter(f"{output_dir}: the result needs a folder of its own, by name", field="output_dir")
    # The result and the run's files are written beside its place, under longer names.
    _check_writable(output_dir.parent, output_dir, "output_dir")
    if config.run_dir is not None:
        _check_writable(config.run_dir, config.run_dir, "run_dir")


def _check_writable(folder: Path, place: Path, field: str) -> None:
    """Makes a folder in the nearest one that there is, and takes it away again."""
    try:
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{place.name}."):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidParameter(f"{place}: nothing can be written there: {reason}", field=field) from error
