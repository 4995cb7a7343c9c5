"""The supervisor over real processes."""

import asyncio
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from narrative.cli.ensemble import ensemble
from narrative.cli.running import left_behind, running_ensemble, start_time, state_file, stop_ensemble
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


async def restarted(supervisor: Supervisor) -> None:
    """Kills the process and waits until the next one is ready."""
    managed = supervisor.processes[0]
    assert managed.process is not None
    first = managed.process.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: managed.process is not None and managed.process.pid != first)
    async with asyncio.timeout(10):
        while not await is_ready(managed.spec, managed.port):
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
    assert state["processes_started"] == {"gateway": start_time(process.pid)}
    assert f"hello from {process.pid}" in (tmp_path / "logs" / "gateway.log").read_text()

    await supervisor.stop()

    assert process.returncode is not None
    assert running_ensemble(state_file(tmp_path)) is None


async def test_a_process_that_dies_is_started_again(supervisor: Supervisor) -> None:
    watching = asyncio.create_task(supervisor.watch())

    await restarted(supervisor)

    assert supervisor.processes[0].restarts == 1
    watching.cancel()


async def test_a_state_that_cannot_be_written_ends_no_supervision(supervisor: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "ensemble.tmp").mkdir()
    watching = asyncio.create_task(supervisor.watch())

    for _ in range(2):
        await restarted(supervisor)

    watching.cancel()


async def test_a_process_that_cannot_be_started_is_tried_again(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = asyncio.create_subprocess_exec
    failures = iter([OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))])

    async def fail_once(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        for error in failures:
            raise error
        return await start(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fail_once)
    monkeypatch.setattr("narrative.cli.supervisor.RESTART_DELAY_S", 0.01)
    watching = asyncio.create_task(supervisor.watch())

    await restarted(supervisor)

    assert not list(failures)
    watching.cancel()


async def test_a_log_that_cannot_be_written_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROGRAMS))
    said: list[str] = []
    supervisor = Supervisor(
        profile("talkative_program"), tmp_path, 0, lambda name, line: said.append(f"{name}: {line}")
    )
    await supervisor.start()
    await supervisor.wait_ready(timeout_s=20)
    # Not earlier: what is there when it starts is removed.
    supervisor.processes[0].log = Path("/dev/full")
    said.clear()
    watching = asyncio.create_task(supervisor.watch())

    await restarted(supervisor)

    watching.cancel()
    await supervisor.stop()
    assert sum(line.startswith("supervisor: /dev/full cannot be written") for line in said) == 1
    assert said[-1] == "gateway: b"


@pytest.mark.parametrize("cancelled", [False, True])
async def test_where_supervision_fails_everything_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cancelled: bool
) -> None:
    async def fail(supervisor: Supervisor) -> None:
        async with asyncio.TaskGroup():
            raise RuntimeError(f"{len(supervisor.processes)} is too many")

    monkeypatch.setenv("PYTHONPATH", str(PROGRAMS))
    monkeypatch.setenv("NARRATIVE_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("narrative.cli.ensemble.load_profile", lambda _: profile())
    monkeypatch.setattr(Supervisor, "watch", fail)
    with contextlib.suppress(asyncio.CancelledError):
        async with ensemble(0, "test", show_logs=False) as supervisor:
            process = supervisor.processes[0].process
            await asyncio.sleep(0)
            if cancelled:
                raise asyncio.CancelledError

    assert process is not None
    assert process.returncode is not None
    assert not state_file(tmp_path).exists()
    assert "1 is too many" in capsys.readouterr().err


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


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing, with these arguments; the system shows them once it runs."""
    command = [sys.executable, "-c", "input('>')", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b">"
        yield process
        process.kill()


def left(data_dir: Path, pid: int, **more: Any) -> Path:
    """The state that an ensemble of one process left when its supervisor was killed."""
    state = {"url": "http://here", "ready": True, "supervisor": os.getpid(), "started": "1"}
    state_file(data_dir).write_text(json.dumps({**state, "processes": {"gateway": pid}, **more}))
    return state_file(data_dir)


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (("-m", "gateway"), {"processes_started": {"gateway": "1"}}),
        # An earlier version wrote no times.
        (("/var/log/gateway.log",), {}),
        (("-m", "my.services.clock"), {}),
    ],
)
def test_a_stranger_with_the_number_of_a_process_is_left_alone(
    tmp_path: Path, arguments: tuple[str, ...], more: dict[str, Any]
) -> None:
    with running(*arguments) as stranger:
        path = left(tmp_path, stranger.pid, **more)

        assert left_behind(path) == ""
        assert stop_ensemble(path) is False
        assert stranger.poll() is None


@pytest.mark.parametrize("module", ["gateway", "services.prompt.llama_server"])
def test_what_an_earlier_version_left_is_stopped(tmp_path: Path, module: str) -> None:
    with running("-m", module) as process:
        path = left(tmp_path, process.pid)

        assert "of it still run: gateway" in left_behind(path)
        assert stop_ensemble(path) is True
        assert process.wait() == -signal.SIGTERM


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
