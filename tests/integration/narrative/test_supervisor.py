"""The supervisor over real processes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from narrative.cli.running import running_ensemble, start_time, state_file, stop_ensemble
from narrative.cli.supervisor import Supervisor, is_ready
from narrative.errors import Conflict, ServiceUnavailable
from narrative.profiles import ProcessSpec, Profile

PROGRAMS = Path(__file__).parent / "programs"


def profile(module: str = "healthy_program") -> Profile:
    spec = ProcessSpec(module=module, port="PROGRAM_PORT", health="http", path="/")
    return Profile(name="test", processes={"gateway": spec}, environment={})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    monkeypatch.setenv("PYTHONPATH", str(PROGRAMS))
    supervisor = Supervisor(profile(), tmp_path, gateway_port=0)
    await supervisor.start()
    await supervisor.wait_ready(timeout_s=20)
    yield supervisor
    await supervisor.stop()


async def test_it_starts_says_where_it_is_and_leaves_nothing_behind(supervisor: Supervisor, tmp_path: Path) -> None:
    process = supervisor.processes[0].process
    assert process is not None
    state = running_ensemble(state_file(tmp_path))
    assert state is not None
    assert (state["url"], state["ready"]) == (supervisor.url, True)
    assert f"hello from {process.pid}" in (tmp_path / "logs" / "gateway.log").read_text()

    await supervisor.stop()

    assert process.returncode is not None
    assert running_ensemble(state_file(tmp_path)) is None


async def test_a_process_that_dies_is_started_again(supervisor: Supervisor) -> None:
    managed = supervisor.processes[0]
    assert managed.process is not None
    first = managed.process.pid
    watching = asyncio.create_task(supervisor.watch())

    os.kill(first, signal.SIGKILL)
    await until(lambda: managed.process is not None and managed.process.pid != first)
    async with asyncio.timeout(10):
        while not await is_ready(managed.spec, managed.port):
            await asyncio.sleep(0.01)

    assert managed.restarts == 1
    watching.cancel()


async def test_a_second_ensemble_is_refused(supervisor: Supervisor, tmp_path: Path) -> None:
    second = Supervisor(profile(), tmp_path, gateway_port=0)
    with pytest.raises(Conflict, match="narrate down"):
        await second.start()
    await second.stop()

    state = running_ensemble(state_file(tmp_path))
    assert state is not None
    assert state["url"] == supervisor.url


async def test_a_taken_port_is_named(supervisor: Supervisor, tmp_path: Path) -> None:
    taken = supervisor.processes[0].port

    with pytest.raises(Conflict, match=str(taken)):
        await Supervisor(profile(), tmp_path / "other", gateway_port=taken).start()


async def test_a_process_that_cannot_start_shows_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROGRAMS))
    supervisor = Supervisor(profile("broken_program"), tmp_path, gateway_port=0)
    await supervisor.start()

    with pytest.raises(ServiceUnavailable, match="the weights are missing"):
        await supervisor.wait_ready(timeout_s=20)
    await supervisor.stop()


async def test_long_lines_do_not_hold_it_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROGRAMS))
    supervisor = Supervisor(profile("talkative_program"), tmp_path, gateway_port=0)
    await supervisor.start()

    await supervisor.wait_ready(timeout_s=20)  # It is ready when it has said what it has to say.

    assert supervisor.processes[0].log.read_text() == "a" * 300_000 + "\nb\n"
    await supervisor.stop()


def test_a_stranger_with_the_number_of_a_supervisor_is_left_alone(tmp_path: Path) -> None:
    state = {"url": "http://127.0.0.1:1", "ready": True, "supervisor": os.getpid(), "started": "1", "processes": {}}
    state_file(tmp_path).write_text(json.dumps(state))

    assert running_ensemble(state_file(tmp_path)) is None
    assert stop_ensemble(state_file(tmp_path)) is False


def test_a_supervisor_that_was_killed_no_longer_runs(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as killed:
        started = start_time(killed.pid)
        killed.kill()
        # Nobody has waited for it for good, so its number is still known.
        os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
        state = {"url": "http://here", "ready": True, "supervisor": killed.pid, "started": started, "processes": {}}
        state_file(tmp_path).write_text(json.dumps(state))

        assert running_ensemble(state_file(tmp_path)) is None


def test_stopping_nothing_says_so(tmp_path: Path) -> None:
    assert stop_ensemble(state_file(tmp_path)) is False
