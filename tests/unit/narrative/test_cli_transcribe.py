"""`narrate transcribe`: what is asked of the gateway."""

import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from narrative.cli import main
from narrative.cli.client import Client


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The fields of every request."""
    sent: list[dict[str, str]] = []

    def answer(client: Client, method: str, path: str, data: dict[str, str], **_: Any) -> httpx.Response:
        del client, method, path
        sent.append(data)
        return httpx.Response(200, text="said")

    monkeypatch.setattr(Client, "request", answer)
    return sent


def transcribe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> int:
    recording = tmp_path / "talk.wav"
    recording.touch()
    monkeypatch.setattr(sys, "argv", ["narrate", "transcribe", str(recording), "--url", "http://gateway", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ((), {"response_format": "text"}),
        (("--speakers", "3"), {"response_format": "text", "num_speakers": "3"}),
        (
            ("--min-speakers", "2", "--max-speakers", "4", "--temperature", "0.5"),
            {"response_format": "text", "min_speakers": "2", "max_speakers": "4", "temperature": "0.5"},
        ),
        (
            ("--words", "-f", "verbose_json"),
            {"response_format": "verbose_json", "timestamp_granularities[]": "word"},
        ),
    ],
)
def test_what_is_asked_for_is_sent(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    sent: list[dict[str, str]],
    arguments: tuple[str, ...],
    asked: dict[str, str],
) -> None:
    assert transcribe(monkeypatch, tmp_path, *arguments) == 0
    assert sent == [asked]


def test_words_need_a_form_that_has_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, sent: list[dict[str, str]]
) -> None:
    assert transcribe(monkeypatch, tmp_path, "--words", "-f", "srt") == 1
    assert "--words goes with --format verbose_json; srt has no place for them" in capsys.readouterr().err
    assert not sent
