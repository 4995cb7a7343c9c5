"""Clips of a real voice, cut from the test recording, in the layout of SOVA."""

import wave
from pathlib import Path

import numpy as np
import pytest

from services.trainer.speech.audio import SAMPLE_RATE_HZ, decode

# Where the sentences of russian.flac begin, in seconds: in the pauses between them.
_STARTS_S = (0.0, 6.0, 12.0, 16.4, 21.5, 27.25, 32.9, 37.75)


@pytest.fixture(scope="session")
def sentences(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with eight sentences, 4 to 6 s each, and their texts."""
    folder = tmp_path_factory.mktemp("sentences")
    audio = decode(speech / "russian.flac", "russian.flac", max_s=60)
    texts = (speech / "russian.txt").read_text(encoding="utf-8").splitlines()
    ends_s = (*_STARTS_S[1:], len(audio) / SAMPLE_RATE_HZ)
    for number, (start_s, end_s, text) in enumerate(zip(_STARTS_S, ends_s, texts, strict=True)):
        clip = audio[round(start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)]
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE_HZ)
            file.writeframes((clip * 32767).astype(np.int16).tobytes())
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder
