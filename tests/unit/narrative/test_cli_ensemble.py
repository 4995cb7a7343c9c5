"""`narrate up` and its like: when an ensemble may start, and that it stops whatever comes."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from narrative.catalogue import ModelEntry
from narrative.cli import ensemble
from narrative.cli.running import start_time, state_file
from narrative.cli.supervisor import Supervisor
from tests.told import told


def fetching(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were asked for are noted instead of fetched."""
    fetched: list[str] = []

    def note(entries: list[ModelEntry]) -> None:
        fetched.extend(entry.id for entry in entries)

    monkeypatch.setattr("narrative.cli.ensemble.pull_all", note)
    monkeypatch.setattr("narrative.cli.story.pull_all", note)
    return fetched


@pytest.mark.parametrize("arguments", [("up",), ("up", "--detach"), ("story", "--up", "talk.wav")])
def test_a_second_ensemble_is_refused_before_weights_are_fetched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    state: dict[str, Any] = {"supervisor": os.getpid(), "started": start_time(os.getpid()), "processes": {}}
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    state_file(data_dir).write_text(json.dumps(state | {"url": "http://here"}))
    (tmp_path / "talk.wav").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NARRATIVE_DATA_DIR", str(data_dir))
    fetched = fetching(monkeypatch)
    said = "Conflict: an ensemble runs already at http://here; stop it with `narrate down`\n"
    assert told(monkeypatch, capsys, *arguments) == said
    assert not fetched
    assert list(data_dir.iterdir()) == [state_file(data_dir)]


@pytest.mark.parametrize("detach", [(), ("--detach",)])
def test_a_taken_port_is_refused_before_weights_are_fetched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, detach: tuple[str, ...]
) -> None:
    monkeypatch.setenv("NARRATIVE_DATA_DIR", str(tmp_path))
    fetched = fetching(monkeypatch)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = f"Conflict: port {port} is taken; choose another with --port, or --port 0 for a free one\n"
        assert told(monkeypatch, capsys, "up", "--port", port, *detach) == said
    assert not fetched
    assert not list(tmp_path.iterdir())


def test_an_ensemble_that_nobody_waits_for_any_more_is_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Sleeping(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:
            assert command[1:4] == ["-m", "narrative.cli.main", "up"]
            super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], **options)
            started.append(self)

    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("NARRATIVE_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("narrative.cli.ensemble.pull_all", lambda _: None)
    monkeypatch.setattr("narrative.cli.ensemble.subprocess.Popen", Sleeping)
    monkeypatch.setattr("narrative.cli.ensemble.running_ensemble", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensemble.up(detach=True, port=0)
    try:
        assert started[0].wait(timeout=10) == -signal.SIGTERM
    finally:
        started[0].kill()


async def test_what_is_stopping_is_stopped_whatever_comes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    began, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow(Supervisor):
        async def start(self) -> None:
            self.processes = []

        async def stop(self) -> None:
            began.set()
            await may_end.wait()
            ended.set()

    async def one() -> None:
        async with ensemble.ensemble(0, "embedded", show_logs=False):
            pass

    monkeypatch.setenv("NARRATIVE_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("narrative.cli.ensemble.Supervisor", Slow)
    running = asyncio.create_task(one())
    await began.wait()
    running.cancel()
    asyncio.get_running_loop().call_soon(may_end.set)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()
