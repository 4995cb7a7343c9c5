"""`narrate story`: what is asked of the gateway."""

import sys
from pathlib import Path
from typing import Any

import pytest

from narrative.cli import main
from narrative.cli.client import ApiError, Client


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ((), {}),
        (("--model", "sdxl", "--asr-model", "my-voice"), {"model": "sdxl", "asr_model": "my-voice"}),
        (("--adapter", "seal:0.5"), {"adapters": [{"name": "seal", "weight": 0.5}]}),
    ],
)
def test_models_and_adapters_are_asked_for_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], asked: dict[str, Any]
) -> None:
    sent: list[dict[str, Any]] = []

    def refuse(client: Client, audio: Path, options: dict[str, Any]) -> dict[str, Any]:
        del client, audio
        sent.append(options)
        raise ApiError("enough was seen")

    recording = tmp_path / "talk.wav"
    recording.touch()
    monkeypatch.setattr(Client, "create_narrative", refuse)
    where = ("--output", str(tmp_path / "story"), "--url", "http://gateway")
    monkeypatch.setattr(sys, "argv", ["narrate", "story", str(recording), *where, *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    assert sent == [{"num_images": 1, **asked}]
