"""The loss of Whisper with an adapter."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from narrative.errors import InvalidParameter
from services.trainer import lora
from services.trainer.learner import Learner
from services.trainer.recipes.whisper_lora.config import Config
from services.trainer.speech.examples import IGNORED, Batch, SpeechExamples
from services.trainer.speech.recognise import transcribe

# Of some 52,000 scores each, and autograd keeps three tensors of them: 64 tokens are 40 MiB, 400 would be 250.
_TOKENS_AT_ONCE = 64
_SAMPLED_CLIPS = 5


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
        adapter = LoraConfig(
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
                self.adapted = cast("PeftModel", get_peft_model(model, adapter))
        except ValueError as error:
            raise InvalidParameter(f"target_modules: {error}", field="target_modules") from error
        lora.save_memory(self.adapted)
        # What the convolutions make has its axes swapped, and sums keep that: every matrix product would begin by
        # putting its input in order.
        first, *_ = model.get_encoder().layers
        first.register_forward_pre_hook(_in_order)
        self.adapted.peft_config["default"].base_model_name_or_path = config.base_model
        self._validation, self._most, self._batch_size = validation, config.validation_clips, config.train_batch_size
        self._listening: tuple[WhisperProcessor, str] | None = None

    def sample_with(self, processor: WhisperProcessor, language: str) -> None:
        """What to transcribe with when samples are asked for."""
        self._listening = (processor, language)

    def sample(self, step: int) -> Mapping[str, str]:
        """What is said in the first clips kept for validation, and what is heard."""
        del step
        assert self._listening is not None, "sample_with() comes first"
        processor, language = self._listening
        positions = range(min(_SAMPLED_CLIPS, len(self._validation)))
        texts = transcribe(
            self.adapted, processor, self._validation, positions, language=language, batch_size=self._batch_size
        )
        lines = [
            f"{self._validation.name(position)}\n  said:  {self._validation.text(position)}\n  heard: {text}"
            for position, text in zip(positions, texts, strict=True)
        ]
        return {"clips": "\n".join(lines)}

    def forward(self, batch: Batch) -> torch.Tensor:
        """Cross-entropy of the tokens of each clip, then the mean over clips, so that long ones count no more."""
        labels = batch["labels"]
        whisper = cast("WhisperForConditionalGeneration", self.adapted.get_base_model())
        # Any token serves as padding: it comes after all that counts.
        padding, start = whisper.config.pad_token_id or 0, whisper.config.decoder_start_token_id
        states = whisper.model(
            input_features=batch["input_features"],
            decoder_input_ids=shift_tokens_right(labels, padding, start),
            use_cache=False,
        ).last_hidden_state
        spoken = labels != IGNORED
        losses = token_losses(states[spoken], labels[spoken], whisper.proj_out)
        shares = (spoken / spoken.sum(1, keepdim=True))[spoken]
        return (losses * shares).sum() / len(labels)

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


def _in_order(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    states, *rest = inputs
    return states.contiguous(), *rest


def token_losses(states: torch.Tensor, labels: torch.Tensor, head: nn.Module) -> torch.Tensor:
    """The cross-entropy of each token, float32 (tokens,), without holding the scores of all of them.

    Where there are many tokens, their scores are computed again, some at a time, when gradients are.

    Args:
        states: (tokens, width), the last ones of the decoder.
        labels: int64 (tokens,).
        head: gives each state a score for every token of the vocabulary.
    """

    def some(states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(head(states).float(), labels, reduction="none")

    if len(labels) <= _TOKENS_AT_ONCE:
        return some(states, labels)
    pieces = zip(torch.split(states, _TOKENS_AT_ONCE), torch.split(labels, _TOKENS_AT_ONCE), strict=True)
    return torch.cat([cast("torch.Tensor", checkpoint(some, *piece, use_reentrant=False)) for piece in pieces])
