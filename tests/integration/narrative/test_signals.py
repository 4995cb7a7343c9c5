"""However `narrate` is ended, what it started ends with it; where it could not end that, it says so."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from narrative.cli.ensemble import heard_out, heeding_signals
from narrative.cli.running import state_file

PROGRAMS = Path(__file__).parent / "programs"


class Terminal:
    """`narrate` on a terminal of its own, over an ensemble of two small programs."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self.state_file = state_file(data_dir)
        self.screen, terminal = os.openpty()
        self.narrate = subprocess.Popen(
            ["setsid", "--ctty", sys.executable, str(PROGRAMS / "narrate_up.py"), *arguments],
            env=os.environ | {"PYTHONPATH": str(PROGRAMS), "NARRATIVE_DATA_DIR": str(data_dir), "TERM": "dumb"},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        self.pids: list[int] = []

    def wait_for(self, words: str) -> None:
        """Reads until the words are on the screen, and notes which processes run."""
        shown = ""
        while words not in shown:
            try:
                shown += os.read(self.screen, 4096).decode()
            except OSError:
                raise AssertionError(f"it ended: {shown}") from None
        self.pids = list(json.loads(self.state_file.read_text())["processes"].values())

    def close(self) -> None:
        os.close(self.screen)
        self.screen = -1


@pytest.fixture(autouse=True)
def hang_up() -> Iterator[None]:
    """What is started here hears SIGHUP, also where the tests themselves were started with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_terminal(*arguments: str) -> Terminal:
        opened.append(Terminal(tmp_path, *arguments))
        return opened[-1]

    yield open_terminal
    for terminal in opened:
        terminal.narrate.kill()
        terminal.narrate.wait()
        for pid in filter(_runs, terminal.pids):
            os.kill(pid, signal.SIGKILL)
        if terminal.screen >= 0:
            terminal.close()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[-1].split()[0] != "Z"
    except OSError:
        return False


END: dict[str, Callable[[Terminal], None]] = {
    "closed": Terminal.close,
    "SIGHUP": lambda terminal: terminal.narrate.send_signal(signal.SIGHUP),
    "SIGTERM": lambda terminal: terminal.narrate.send_signal(signal.SIGTERM),
    "SIGINT": lambda terminal: terminal.narrate.send_signal(signal.SIGINT),
}


@pytest.mark.parametrize("end", END)
@pytest.mark.parametrize("command", ["up", "story"])
def test_nothing_is_left_of_an_ensemble(
    open_terminal: Callable[..., Terminal], tmp_path: Path, command: str, end: str
) -> None:
    recording = tmp_path / "talk.wav"
    recording.touch()
    arguments = {"up": ("--port", "0"), "story": ("--up", str(recording), "--output", str(tmp_path / "story"))}[command]
    terminal = open_terminal(command, *arguments)
    terminal.wait_for({"up": "ready at", "story": "telling"}[command])
    assert len(terminal.pids) == 2
    assert all(map(_runs, terminal.pids))

    END[end](terminal)

    status = terminal.narrate.wait(timeout=20)
    # A terminal that is gone may be noticed by what is just being written, before the signal comes.
    by_signal = 0 if command == "up" else 128 + signal.Signals["SIGHUP" if end == "closed" else end]
    assert status == by_signal or (end == "closed" and status == 1)
    assert not any(map(_runs, terminal.pids))
    assert not terminal.state_file.exists()
    if command == "story":
        assert (tmp_path / "posted").read_text() == "/v1/narratives\n/v1/narratives/7/cancel\n"


def test_an_ensemble_whose_log_nobody_reads_any_more_goes_on(tmp_path: Path) -> None:
    """`narrate up 2>&1 | grep -m1 ready`."""
    command = [sys.executable, str(PROGRAMS / "narrate_up.py"), "up", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(PROGRAMS), "NARRATIVE_DATA_DIR": str(tmp_path)}
    narrate = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
    try:
        assert narrate.stdout is not None
        while b"ready at" not in narrate.stdout.readline():
            assert narrate.poll() is None
        narrate.stdout.close()
        first = json.loads(state_file(tmp_path).read_text())["processes"]["asr"]
        # What is said of it, by the supervisor and by the next one, finds the pipe closed.
        os.kill(first, signal.SIGKILL)
        until_s = time.monotonic() + 20
        while json.loads(state_file(tmp_path).read_text())["processes"]["asr"] == first:
            assert narrate.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.01)
        narrate.terminate()
        assert narrate.wait(timeout=20) == 0
        assert not state_file(tmp_path).exists()
    finally:
        narrate.kill()
        narrate.wait()


async def test_what_must_not_be_cut_short_is_heard_out() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def work() -> None:
        begun.set()
        await go_on.wait()
        done.append("work")

    task = asyncio.create_task(heard_out(work()))
    await begun.wait()
    task.cancel()
    asyncio.get_running_loop().call_soon(go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["work"]


@pytest.mark.parametrize("closed", [None, io.TextIOWrapper(io.BytesIO())])
def test_a_closed_terminal_is_heeded_where_nothing_can_be_printed(
    monkeypatch: pytest.MonkeyPatch, closed: io.TextIOWrapper | None
) -> None:
    """Standard output may be closed from the start: `narrate up >&-`."""

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.wait_for(asyncio.get_running_loop().create_future(), 10)

    if closed is not None:
        closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    monkeypatch.setattr(sys, "stderr", closed)
    assert asyncio.run(heeding_signals(work())) == signal.SIGHUP


def test_what_a_killed_supervisor_left_is_named_and_can_be_stopped(
    open_terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    terminal = open_terminal("up", "--port", "0")
    terminal.wait_for("ready at")
    terminal.narrate.kill()
    terminal.narrate.wait()

    def narrate(*arguments: str) -> str:
        command = [sys.executable, str(PROGRAMS / "narrate_up.py"), *arguments]
        environment = os.environ | {"PYTHONPATH": str(PROGRAMS), "NARRATIVE_DATA_DIR": str(tmp_path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60).stderr

    for command in ("status", "up"):
        said = "an ensemble was killed here, and of it still run: asr, gateway; stop them with `narrate down`"
        assert said in narrate(command)
    assert all(map(_runs, terminal.pids))
    assert narrate("down") == "stopped\n"
    until_s = time.monotonic() + 10
    while any(map(_runs, terminal.pids)) and time.monotonic() < until_s:
        time.sleep(0.01)
    assert not any(map(_runs, terminal.pids))
    assert "no ensemble runs here" in narrate("status")
