"""What a Whisper in transformers' form hears, to measure it in the very form in which it is trained."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import WhisperProcessor

from services.trainer.speech.examples import SpeechExamples, room_for_text


@torch.inference_mode()
def transcribe(
    model: Any,
    processor: WhisperProcessor,
    examples: SpeechExamples,
    positions: Sequence[int],
    *,
    language: str,
    batch_size: int,
) -> list[str]:
    """Texts of some examples, decoded greedily.

    Args:
        model: a ``WhisperForConditionalGeneration``, or one with an adapter.
    """
    was_training = model.training
    model.eval()
    texts: list[str] = []
    for start in range(0, len(positions), batch_size):
        items = [examples.example(position) for position in positions[start : start + batch_size]]
        features = examples.collate(items)["input_features"].to(model.device, model.dtype)
        tokens = model.generate(
            input_features=features,
            language=language,
            task="transcribe",
            num_beams=1,
            do_sample=False,
            max_new_tokens=room_for_text(model.config),
        )
        texts += [text.strip() for text in processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    model.train(was_training)
    return texts
