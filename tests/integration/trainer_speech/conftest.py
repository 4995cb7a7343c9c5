"""Clips of a real voice, cut from the test recording, in the layout of SOVA."""

from pathlib import Path

import pytest
import soundfile

# Where the sentences of russian.flac begin, in seconds: in the pauses between them.
_STARTS_S = (0.0, 6.0, 12.0, 16.4, 21.5, 27.25, 32.9, 37.75)


@pytest.fixture(scope="session")
def sentences(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with eight sentences, 4 to 6 s each, and their texts."""
    folder = tmp_path_factory.mktemp("sentences")
    audio, rate_hz = soundfile.read(speech / "russian.flac")
    texts = (speech / "russian.txt").read_text(encoding="utf-8").splitlines()
    ends_s = (*_STARTS_S[1:], len(audio) / rate_hz)
    for number, (start_s, end_s, text) in enumerate(zip(_STARTS_S, ends_s, texts, strict=True)):
        soundfile.write(folder / f"{number}.flac", audio[round(start_s * rate_hz) : round(end_s * rate_hz)], rate_hz)
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder
