"""The loss of Whisper with an adapter."""

import warnings
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import WhisperForConditionalGeneration

from narrative.errors import InvalidParameter
from services.trainer.learner import Learner
from services.trainer.recipes.whisper_lora.config import Config
from services.trainer.speech.examples import IGNORED, Batch, SpeechExamples


class WhisperLearner(Learner):
    """Whisper with LoRA matrices, of which only those are trained.

    peft's classes for text-to-text models insist on ``input_ids``; Whisper takes ``input_features``, so the plain
    ``PeftModel`` hands them through.

    Raises:
        InvalidParameter: the model has no such layers.
    """

    def __init__(self, model: WhisperForConditionalGeneration, config: Config, validation: SpeechExamples) -> None:
        super().__init__()
        torch.manual_seed(config.seed)
        if config.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
            model.config.use_cache = False
        lora = LoraConfig(
            r=config.rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=list(config.target_modules),
            bias="none",
        )
        try:
            with warnings.catch_warnings():
                # peft asks transformers for something by its former name.
                warnings.filterwarnings("ignore", category=FutureWarning)
                self.adapted = cast("PeftModel", get_peft_model(model, lora))
        except ValueError as error:
            raise InvalidParameter(f"target_modules: {error}", field="target_modules") from error
        self.adapted.peft_config["default"].base_model_name_or_path = config.base_model
        self._validation, self._most, self._batch_size = validation, config.validation_clips, config.train_batch_size

    def forward(self, batch: Batch) -> torch.Tensor:
        """Cross-entropy of the tokens of each clip, then the mean over clips, so that long ones count no more."""
        labels = batch["labels"]
        logits = self.adapted(input_features=batch["input_features"], labels=labels).logits
        losses = cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        spoken = labels != IGNORED
        return (losses.sum(1) / spoken.sum(1)).mean()

    def save(self, folder: Path) -> None:
        """Writes the adapter; its embeddings are the base's own, so that nothing needs to be looked up in a hub."""
        self.adapted.save_pretrained(str(folder), save_embedding_layers=False)
        # What peft writes of its own accord is a form with every answer missing.
        (folder / "README.md").unlink(missing_ok=True)

    def validation_loss(self) -> float:
        """The loss on the clips kept for validation, as many as are transcribed."""
        count = min(self._most, len(self._validation))
        total = 0.0
        for start in range(0, count, self._batch_size):
            positions = range(start, min(start + self._batch_size, count))
            batch = self._validation.collate([self._validation.example(position) for position in positions])
            moved = Batch(
                input_features=batch["input_features"].to(self.adapted.device),
                labels=batch["labels"].to(self.adapted.device),
            )
            total += float(self(moved)) * len(positions)
        return total / count
