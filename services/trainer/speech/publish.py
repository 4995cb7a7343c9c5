"""An adapter merged into its base and converted to what the speech service loads.

The speech service looks into the folder of published models with every request, so the model can be asked for by name
as soon as this is done, without a restart.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctranslate2.converters import TransformersConverter
from peft import PeftModel
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from narrative.errors import Conflict
from narrative.settings import CommonSettings
from services.trainer.speech.names import checked_name

# Written last: the speech service takes a folder for a model only when this is in it.
CARD = "model-card.json"
FOLDER = "speech-models"


def published_models(folder: Path | None = None) -> Path:
    """The folder of published models; by default the one in which the speech service looks."""
    return folder or CommonSettings().data_dir / FOLDER


def refuse_foreign_model(folder: Path, name: str) -> None:
    """A model replaces an earlier one of its name, nothing else.

    Raises:
        Conflict: there is something at its place that was not published here.
    """
    target = folder / checked_name(name)
    if target.exists() and not (target / CARD).is_file():
        raise Conflict(f"{target} is there and was not published by the trainer; publish under another name")


def publish(
    adapted: PeftModel,
    processor: WhisperProcessor,
    folder: Path,
    name: str,
    *,
    weights_type: str,
    about: Mapping[str, Any],
) -> Path:
    """Writes ``folder/name`` whole or not at all; the model given is merged and of no further use as an adapter.

    Args:
        weights_type: float32, float16 or int8.
        about: what the card says besides the languages: base, licence, scores.

    Raises:
        Conflict: see ``refuse_foreign_model``.
    """
    refuse_foreign_model(folder, name)
    folder.mkdir(parents=True, exist_ok=True)
    merged: WhisperForConditionalGeneration = adapted.merge_and_unload()
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as temporary:
        source, target = Path(temporary) / "merged", Path(temporary) / "model"
        merged.save_pretrained(source)
        processor.save_pretrained(source)
        TransformersConverter(str(source), copy_files=["tokenizer.json"]).convert(
            str(target), quantization=weights_type
        )
        features = {"feature_size": processor.feature_extractor.feature_size}
        (target / "preprocessor_config.json").write_text(json.dumps(features), encoding="utf-8")
        card = {**about, "languages": languages(processor), "weights_type": weights_type}
        (target / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        final = folder / name
        if final.exists():
            final.rename(Path(temporary) / "earlier")
        target.rename(final)
    return final


def languages(processor: WhisperProcessor) -> list[str]:
    """ISO 639-1 codes the model understands, as its vocabulary has them."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    vocabulary = processor.tokenizer.get_added_vocab()
    return [code for code in LANGUAGES if f"<|{code}|>" in vocabulary]
