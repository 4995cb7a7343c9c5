"""Clips as what Whisper learns from: log-mel features and label tokens."""

from collections.abc import Sequence
from typing import TypedDict

import torch
from transformers import WhisperConfig, WhisperProcessor

from narrative.errors import InvalidParameter
from services.trainer.batches import Draw
from services.trainer.speech.audio import SAMPLE_RATE_HZ, decode
from services.trainer.speech.normalise import clean
from services.trainer.speech.sources import Clip

IGNORED = -100
_MAX_S = 30.0
# Start, language, task and no timestamps before a text, the end behind it.
_FRAME_TOKENS = 5


class Example(TypedDict):
    """One clip.

    Attributes:
        input_features: float32 (mel bands, 3000), frames of 10 ms, padded to 30 s.
        labels: int64 (tokens,), language and task first, end of text last.
    """

    input_features: torch.Tensor
    labels: torch.Tensor


class Batch(TypedDict):
    """Clips together.

    Attributes:
        input_features: float32 (clips, mel bands, 3000).
        labels: int64 (clips, longest), padded with -100, which the loss leaves out.
    """

    input_features: torch.Tensor
    labels: torch.Tensor


class SpeechExamples:
    """Some clips of a source; audio is read, decoded and turned into features when an example is asked for."""

    def __init__(
        self, clips: Sequence[Clip], indices: Sequence[int], processor: WhisperProcessor, language: str
    ) -> None:
        self._clips, self._indices, self._processor = clips, indices, processor
        self._prefix, self._end = label_frame(processor, language)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, draw: Draw) -> Example:
        return self.example(draw.index)

    def example(self, position: int) -> Example:
        """Reads one clip.

        Raises:
            AudioUndecodable: its file was changed or removed since it was checked.
        """
        clip = self._clips[self._indices[position]]
        audio = decode(clip.audio, clip.name, max_s=_MAX_S)
        features = self._processor.feature_extractor(audio, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
        labels = [*self._prefix, *text_tokens(self._processor, clip.text), self._end]
        return Example(input_features=features.input_features[0], labels=torch.tensor(labels))

    def text(self, position: int) -> str:
        """What is said in a clip."""
        return clean(self._clips[self._indices[position]].text)

    def name(self, position: int) -> str:
        """How messages call a clip."""
        return self._clips[self._indices[position]].name

    def collate(self, items: list[Example]) -> Batch:
        """Stacks features, and pads labels with what the loss leaves out."""
        return Batch(
            input_features=torch.stack([item["input_features"] for item in items]),
            labels=torch.nn.utils.rnn.pad_sequence(
                [item["labels"] for item in items], batch_first=True, padding_value=IGNORED
            ),
        )


def room_for_text(config: WhisperConfig) -> int:
    """Tokens that a transcript may have: what the decoder has places for, less what frames it."""
    return int(config.max_target_positions) - _FRAME_TOKENS


def text_tokens(processor: WhisperProcessor, text: str) -> list[int]:
    """Tokens of a transcript; Whisper begins it with a space."""
    tokens: list[int] = processor.tokenizer(f" {clean(text)}", add_special_tokens=False).input_ids
    return tokens


def label_frame(processor: WhisperProcessor, language: str) -> tuple[list[int], int]:
    """Tokens before and after a text; the start of a transcript is not among them, since the model puts it there.

    Raises:
        InvalidParameter: the model does not know the language.
    """
    vocabulary = processor.tokenizer.get_added_vocab()
    token = f"<|{language}|>"
    if token not in vocabulary:
        raise InvalidParameter(
            f"language {language!r} is none this model knows; accepted are codes such as ru or en", field="language"
        )
    return [vocabulary[token], vocabulary["<|transcribe|>"], vocabulary["<|notimestamps|>"]], vocabulary[
        "<|endoftext|>"
    ]
