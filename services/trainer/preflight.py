"""What can be said of a training on this machine before torch is imported, which takes seconds."""

from pathlib import Path

from narrative.catalogue import Catalogue
from narrative.errors import DatasetInvalid
from services.trainer.base_models import is_of_hub, look_for
from services.trainer.config import RecipeConfig
from services.trainer.speech.sources import check_there

_FOLDERS = ("dataset_dir", "instance_data_dir", "data_dir", "validation_data_dir")


def check(config: RecipeConfig) -> None:
    """Looks whether the data and the base model are there.

    Raises:
        DatasetInvalid: there is no such folder, or file.
        ModelNotFound: no such base, here or in a catalogue.
        WeightsMissing: the base is to be pulled first; says how.
    """
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
