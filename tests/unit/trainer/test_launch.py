"""Several processes from plain Python: what each is told, what is said together, and what happens when one fails."""

import signal
import sys
import time
from collections.abc import Iterator
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


_STOPPED = """
import os, pathlib, signal, sys, time
folder, number, rank = pathlib.Path(sys.argv[1]), int(sys.argv[2]), os.environ["RANK"]
asked = []
signal.signal(number, lambda *_: asked.append(number))
(folder / rank).touch()
while len(list(folder.glob("?"))) < 2:
    time.sleep(0.01)
if rank == "0":
    os.kill(os.getppid(), number)
while not asked:
    time.sleep(0.01)
if rank == "0":
    while (folder / "1").exists():
        time.sleep(0.01)
    # The other has ended, and this one takes its time to save.
    time.sleep(float(sys.argv[3]))
    (folder / "saved").touch()
else:
    (folder / "1").unlink()
sys.exit(143)
"""


@pytest.fixture
def signals_as_in_a_terminal() -> Iterator[None]:
    """A shell has its background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_and_what_they_do_then_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, signals_as_in_a_terminal: None
) -> None:
    monkeypatch.setattr(launch, "_GRACE_S", 0.1)
    before = signal.getsignal(number)
    command = [sys.executable, "-c", _STOPPED, str(tmp_path), str(int(number)), "0.5"]
    assert launch.run(command, 2, on_cpu=True) == 143
    assert [path.name for path in tmp_path.iterdir() if path.name != "0"] == ["saved"]
    assert signal.getsignal(number) is before


def test_a_second_interrupt_ends_all_at_once(tmp_path: Path, signals_as_in_a_terminal: None) -> None:
    program = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def again(*_):
    (folder / "asked").touch()
    os.kill(os.getppid(), signal.SIGINT)
signal.signal(signal.SIGINT, again)
os.kill(os.getppid(), signal.SIGINT)
while True:
    time.sleep(60)
"""
    started_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launch.run([sys.executable, "-c", program, str(tmp_path)], 1, on_cpu=True)
    assert (tmp_path / "asked").exists()
    assert time.monotonic() - started_s < 30


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
