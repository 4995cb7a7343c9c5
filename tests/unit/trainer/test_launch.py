"""Several processes from plain Python: what each is told, what is said together, and what happens when one fails."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from narrative.errors import InvalidParameter
from services.trainer import cli, launch

_SHOW = "import os; print(os.environ['RANK'], os.environ['WORLD_SIZE'], os.environ['ACCELERATE_USE_CPU'])"
_FAIL = "import os, time; os.environ['RANK'] == '1' and exit(7); time.sleep(60)"


def test_each_knows_its_place_and_the_first_speaks(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch.run([sys.executable, "-c", _SHOW], 3, on_cpu=True) == 0
    assert capfd.readouterr().out == "0 3 true\n"


def test_one_that_fails_stops_the_others() -> None:
    started_s = time.monotonic()
    assert launch.run([sys.executable, "-c", _FAIL], 2, on_cpu=True) == 7
    assert time.monotonic() - started_s < 30


def test_sigterm_reaches_all(tmp_path: Path) -> None:
    """The first of them sends it to whoever started them, when all are there."""
    program = f"""
import os, pathlib, signal, sys, time
folder = pathlib.Path({str(tmp_path)!r})
signal.signal(signal.SIGTERM, lambda *_: (folder / ("stopped" + os.environ["RANK"])).touch() or sys.exit(143))
(folder / os.environ["RANK"]).touch()
while os.environ["RANK"] == "0" and len(list(folder.glob("?"))) < 2:
    time.sleep(0.01)
if os.environ["RANK"] == "0":
    os.kill({os.getpid()}, signal.SIGTERM)
time.sleep(60)
"""
    assert launch.run([sys.executable, "-c", program], 2, on_cpu=True) == 143
    assert (tmp_path / "stopped0").exists()
    assert (tmp_path / "stopped1").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("value", ["0", "many", "-1", "65"])
def test_what_is_no_number_of_processes_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launch.VARIABLE, value)
    with pytest.raises(InvalidParameter, match="1 to 64 is accepted"):
        launch.wanted()


def test_the_command_line_hands_on_what_it_has_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = []
    monkeypatch.setenv(launch.VARIABLE, "2")
    monkeypatch.setattr(launch, "run", lambda command, count, on_cpu: started.append((command, count, on_cpu)) or 0)
    assert cli.main(["style", "--dataset-dir", str(tmp_path), "--rank", "3", "--device", "cpu"]) == 0
    ((command, count, on_cpu),) = started
    assert (count, on_cpu) == (2, True)
    assert command[3] == "style"
    assert '"rank": 3' in command[5]
    monkeypatch.setenv("RANK", "0")
    assert launch.wanted() == 1
