"""What the command line says of what goes wrong."""

import sys

import pytest

from narrative.cli import main


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that fails writes to standard error."""
    monkeypatch.setattr(sys, "argv", ["narrate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    return capsys.readouterr().err
