"""An adapter merged into its base and converted to what the speech service loads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctranslate2.converters import TransformersConverter
from peft import PeftModel
from transformers import WhisperForConditionalGeneration, WhisperProcessor

CARD = "model-card.json"


def write_model(
    adapted: PeftModel, processor: WhisperProcessor, folder: Path, *, weights_type: str, about: Mapping[str, Any]
) -> Path:
    """Writes a model into a folder below ``folder``; the one given is merged and of no further use as an adapter.

    Args:
        weights_type: float32, float16 or int8.
        about: what its card says besides the languages: base, licence, scores.
    """
    source, target = folder / "merged", folder / "model"
    merged: WhisperForConditionalGeneration = adapted.merge_and_unload()
    merged.save_pretrained(source)
    processor.save_pretrained(source)
    TransformersConverter(str(source), copy_files=["tokenizer.json"]).convert(str(target), quantization=weights_type)
    features = {"feature_size": processor.feature_extractor.feature_size}
    (target / "preprocessor_config.json").write_text(json.dumps(features), encoding="utf-8")
    card = {**about, "languages": languages(processor), "weights_type": weights_type}
    (target / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def languages(processor: WhisperProcessor) -> list[str]:
    """ISO 639-1 codes the model understands, as its vocabulary has them."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    vocabulary = processor.tokenizer.get_added_vocab()
    return [code for code in LANGUAGES if f"<|{code}|>" in vocabulary]
