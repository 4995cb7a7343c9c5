"""`narrate transcribe`: what is asked of the gateway."""

import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from narrative.cli import main
from narrative.cli.client import Client

SEGMENTS = [
    {"speaker": "SPEAKER_00", "text": " The barn is red. "},
    {"speaker": "SPEAKER_00", "text": "The sea\nis [green]."},
    {"speaker": "SPEAKER_01", "text": "Да?"},
    {"speaker": "SPEAKER_00", "text": "Yes."},
]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The fields of every request."""
    sent: list[dict[str, str]] = []

    def answer(client: Client, method: str, path: str, data: dict[str, str], **_: Any) -> httpx.Response:
        del client, method, path
        sent.append(data)
        if data["response_format"] == "verbose_json":
            return httpx.Response(200, json={"segments": SEGMENTS})
        return httpx.Response(200, text="said\n")

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
        ((), {"response_format": "verbose_json"}),
        (("--format", "text"), {"response_format": "text"}),
        (("--speakers", "3"), {"response_format": "verbose_json", "num_speakers": "3"}),
        (
            ("--min-speakers", "2", "--max-speakers", "4", "--temperature", "0.5"),
            {"response_format": "verbose_json", "min_speakers": "2", "max_speakers": "4", "temperature": "0.5"},
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


def test_who_spoke_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, sent: list[dict[str, str]]
) -> None:
    told = "SPEAKER_00: The barn is red. The sea is [green].\nSPEAKER_01: Да?\nSPEAKER_00: Yes.\n"
    assert transcribe(monkeypatch, tmp_path) == 0
    assert capsys.readouterr().out == told
    assert transcribe(monkeypatch, tmp_path, "--output", str(tmp_path / "talk.txt")) == 0
    assert (tmp_path / "talk.txt").read_text(encoding="utf-8") == told
    assert len(sent) == 2

    assert transcribe(monkeypatch, tmp_path, "-f", "text") == 0
    assert capsys.readouterr().out == "said\n"


@pytest.mark.parametrize("option", ["--speakers", "--min-speakers", "--max-speakers"])
def test_counting_speakers_needs_a_form_that_has_them(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    sent: list[dict[str, str]],
    option: str,
) -> None:
    assert transcribe(monkeypatch, tmp_path, "-f", "text", option, "2") == 1
    assert f"{option} goes with a form that says who spoke; text does not" in capsys.readouterr().err
    assert not sent
