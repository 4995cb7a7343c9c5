"""The cards of the models of the settings, read without loading a weight."""

import hashlib
from collections.abc import Sequence

from narrative.catalogue import Catalogue
from narrative.errors import WeightsError
from services.diffusion.engine import ModelInfo
from services.diffusion.model_folder import ModelCard, read_card
from services.diffusion.settings import DiffusionSettings


def read_cards(settings: DiffusionSettings, catalogue: Catalogue | None = None) -> list[ModelCard]:
    """The models in the order of the settings.

    Raises:
        WeightsError, ModelNotFound: one of them is not here, is corrupt, cannot be run, or has the name of another.
    """
    catalogue = catalogue or Catalogue()
    cards = [_read_card(settings, catalogue, model) for model in settings.models]
    if len({card.id for card in cards}) < len(cards):
        raise WeightsError(f"two models have one name: {', '.join(card.id for card in cards)}")
    return cards


def infos(cards: Sequence[ModelCard], engine: str) -> list[ModelInfo]:
    """What an engine of that name tells of them; the first of each task is its default."""
    defaults = {card.task: card.id for card in reversed(cards)}
    return [
        ModelInfo(card.id, card.task, engine, card.licence, is_default=defaults[card.task] == card.id) for card in cards
    ]


def _read_card(settings: DiffusionSettings, catalogue: Catalogue, model: str) -> ModelCard:
    path = catalogue.resolve(model, settings.common.models_dir)
    if model.startswith(("/", ".", "~")):
        return read_card(path.resolve().name, path)
    entry = catalogue.entry(model)
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(entry.files.items()))
    digest = f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}" if listing else ""
    return read_card(model, path, licence=entry.licence, digest=digest)
