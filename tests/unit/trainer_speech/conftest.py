"""Clips made on the spot: tones of a given length, with any text; and a Whisper to teach them to."""

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .tiny import save_tiny_whisper

WriteWav = Callable[..., Path]


@pytest.fixture
def write_wav(tmp_path: Path) -> WriteWav:
    """Writes a tone and, unless it is None, a text beside it."""

    def write(
        name: str, text: str | None, *, duration_s: float = 1.0, rate_hz: int = 16_000, level: float = 0.3
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        times = np.arange(round(duration_s * rate_hz)) / rate_hz
        tone = (level * 32767 * np.sin(2 * np.pi * 220 * times)).astype("<i2")
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate_hz)
            file.writeframes(tone.tobytes())
        if text is not None:
            path.with_suffix(".txt").write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Whisper with random weights, in transformers' form."""
    return save_tiny_whisper(tmp_path_factory.mktemp("tiny-whisper"))
