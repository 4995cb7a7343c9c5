"""Which clips are fit to learn from, and which of them are kept for validation."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from narrative.errors import AudioUndecodable, DatasetInvalid
from services.trainer.speech.audio import SAMPLE_RATE_HZ, Audio, decode
from services.trainer.speech.normalise import clean, plain
from services.trainer.speech.sources import Clip

_SILENCE_PEAK = 10 ** (-60 / 20)
_SHOWN = 3


@dataclass(frozen=True)
class Limits:
    """What a clip must be like; units in the names. Whisper hears 30 s at most."""

    min_duration_s: float = 0.5
    max_duration_s: float = 30.0
    max_characters_per_s: float = 30.0
    max_tokens: int = 443


@dataclass(frozen=True)
class Report:
    """What became of every clip."""

    kept: list[int] = field(default_factory=list)
    kept_s: float = 0.0
    dropped: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Counts, and the reason of each clip that was dropped."""
        reasons = Counter(reason.split(":")[0] for reason in self.dropped.values())
        return {
            "kept": len(self.kept),
            "kept_s": round(self.kept_s, 2),
            "dropped": len(self.dropped),
            "reasons": dict(reasons.most_common()),
            "dropped_clips": self.dropped,
        }


def select(clips: Sequence[Clip], limits: Limits, count_tokens: Callable[[str], int]) -> Report:
    """Reads every clip once and keeps the indices of those that are fit.

    Args:
        count_tokens: tokens of a cleaned text.

    Raises:
        DatasetInvalid: none is fit; names the first few and why.
    """
    kept: list[int] = []
    kept_s = 0.0
    dropped: dict[str, str] = {}
    for index, clip in enumerate(clips):
        try:
            audio = decode(clip.audio, clip.name, max_s=limits.max_duration_s)
        except AudioUndecodable as error:
            dropped[clip.name] = f"broken: {error.message}"
            continue
        reason = unfit(audio, clean(clip.text), limits, count_tokens)
        if reason:
            dropped[clip.name] = reason
        else:
            kept.append(index)
            kept_s += audio.size / SAMPLE_RATE_HZ
    if not kept:
        examples = "; ".join(f"{name}: {reason}" for name, reason in list(dropped.items())[:_SHOWN])
        raise DatasetInvalid(f"none of {len(dropped)} clips can be used: {examples}")
    return Report(kept, kept_s, dropped)


def unfit(audio: Audio, text: str, limits: Limits, count_tokens: Callable[[str], int]) -> str:
    """Why a clip cannot be used, "" where it can.

    Args:
        audio: float32 (samples,), [-1, 1], 16 kHz mono.
        text: cleaned.
        count_tokens: tokens of a text.
    """
    duration_s = audio.size / SAMPLE_RATE_HZ
    words = plain(text)
    if not words:
        return "no text"
    if duration_s < limits.min_duration_s:
        return f"too short: {duration_s:.2f} s, at least {limits.min_duration_s:g} s"
    if duration_s > limits.max_duration_s:
        return f"too long: more than {limits.max_duration_s:g} s"
    if np.abs(audio).max() < _SILENCE_PEAK:
        return "silent"
    if len(words) / duration_s > limits.max_characters_per_s:
        return f"text too long for the audio: {len(words)} characters in {duration_s:.2f} s"
    if (tokens := count_tokens(text)) > limits.max_tokens:
        return f"text too long: {tokens} tokens, at most {limits.max_tokens}"
    return ""


def split(
    clips: Sequence[Clip], kept: Sequence[int], *, validation_share: float, seed: int
) -> tuple[list[int], list[int]]:
    """Indices for training and for validation, the same on every machine and in every order of the files.

    A clip's side follows from a hash of its words alone: more data moves nothing from one side to the other, and a
    sentence read by several speakers is never on both. Where no hash falls below the share, the lowest one makes the
    validation set.

    Args:
        kept: indices of usable clips.
        validation_share: expected share of the validation set, above 0 and below 1.

    Raises:
        DatasetInvalid: all clips say the same, so that they cannot be on different sides.
    """
    places = {index: _place(clips[index].text, seed) for index in kept}
    lowest, highest = min(places.values()), max(places.values())
    if lowest == highest:
        raise DatasetInvalid("all clips say the same; training and validation need different sentences")
    border = min(max(validation_share, lowest), np.nextafter(highest, 0.0))
    train = [index for index in kept if places[index] > border]
    return train, [index for index in kept if places[index] <= border]


def _place(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on the words of a text and the seed."""
    digest = hashlib.sha256(f"{seed}\n{plain(text)}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
