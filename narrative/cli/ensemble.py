"""`narrate up`, `down` and `status`: the ensemble on this machine."""

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from narrative.catalogue import Catalogue
from narrative.cli.console import err, out
from narrative.cli.models import pull_all
from narrative.cli.output import check_folder
from narrative.cli.running import left_behind, running_ensemble, state_file, stop_ensemble
from narrative.cli.supervisor import Supervisor, check_startable
from narrative.errors import InvalidParameter, ServiceUnavailable
from narrative.profiles import load_profile
from narrative.settings import CommonSettings, read_settings

READY_TIMEOUT_S = 180.0
COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red")

Port = Annotated[int, typer.Option(min=0, max=65535, help="Port of the gateway; 0 for a free one.")]
ProfileName = Annotated[str, typer.Option(help="Profile to run.")]


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is ready.")] = False,
    port: Port = 8080,
    profile: ProfileName = "embedded",
) -> None:
    """Start the ensemble on this machine and wait until it is ready; Ctrl-C stops it."""
    check_startable(state_file(read_settings(CommonSettings).data_dir), port)
    if detach:
        _detached(port, profile)
        return
    pull_all(Catalogue().for_profile(profile))
    if ended_by := asyncio.run(heeding_signals(_foreground(port, profile))):
        raise typer.Exit(128 + ended_by)


def down() -> None:
    """Stop the ensemble that runs on this machine."""
    with err.status("stopping"):
        stopped = stop_ensemble(state_file(read_settings(CommonSettings).data_dir))
    err.print("stopped" if stopped else "nothing was running")


def status() -> None:
    """Show whether an ensemble runs on this machine, and where."""
    settings = read_settings(CommonSettings)
    path = state_file(settings.data_dir)
    state = running_ensemble(path)
    if left := left_behind(path):
        err.print(left, soft_wrap=True)
        raise typer.Exit(1)
    if state is None:
        err.print(_told_none(settings), soft_wrap=True)
        raise typer.Exit(1)
    out.print(f"{'ready' if state['ready'] else 'starting'} at {state['url']}")
    processes = state["processes"]
    assert isinstance(processes, dict)
    for name, pid in processes.items():
        out.print(f"  {name:<12} pid {pid}")


def _told_none(settings: CommonSettings) -> str:
    """What is said where no ensemble runs: a folder for its data that is not there may be named wrongly."""
    if "data_dir" in settings.model_fields_set and not settings.data_dir.is_dir():
        try:
            check_folder(settings.data_dir)
        except InvalidParameter as error:
            return f"no ensemble can run here: NARRATIVE_DATA_DIR: {error.message}"
        return f"no ensemble runs here: NARRATIVE_DATA_DIR: there is no folder {settings.data_dir}"
    return "no ensemble runs here; start one with `narrate up`"


@asynccontextmanager
async def ensemble(port: int, profile_name: str, *, show_logs: bool) -> AsyncIterator[Supervisor]:
    """Runs a profile for as long as the block lasts; ready when the block begins, gone when it ends.

    Its weights have been pulled: that takes a while, and would hold the event loop up.

    Args:
        port: port of the gateway; 0 for a free one.
        show_logs: print what the processes write once they are ready.
    """
    profile = load_profile(profile_name)
    colour = dict(zip(profile.processes, COLOURS, strict=False))
    showing = False

    def on_line(name: str, line: str) -> None:
        if showing:
            # A terminal may be gone, or a pipe closed, and the line is in the log as well.
            with contextlib.suppress(OSError):
                err.print(Text.assemble((f"{name:<12}", colour.get(name, "bold")), " ", line))

    supervisor = Supervisor(profile, read_settings(CommonSettings).data_dir, port, on_line)
    watching: asyncio.Task[None] | None = None
    try:
        await supervisor.start()
        await _show_start(supervisor)
        showing = show_logs
        watching = asyncio.create_task(supervisor.watch())
        watching.add_done_callback(_tell_failure)
        yield supervisor
    finally:
        # Told to end while it is ending: what it started is stopped all the same.
        await heard_out(_stop(supervisor, watching))


async def heard_out(work: Coroutine[Any, Any, None]) -> None:
    """Awaits what must not be cut short: one that is cancelled meanwhile ends when the work has."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _stop(supervisor: Supervisor, watching: asyncio.Task[None] | None) -> None:
    """Ends supervision, however that goes, and then what was supervised."""
    if watching is not None:
        watching.cancel()
        await asyncio.wait({watching})
    await supervisor.stop()


def _tell_failure(watching: asyncio.Task[None]) -> None:
    if not watching.cancelled() and (error := watching.exception()) is not None:
        told = "".join(traceback.format_exception(error))
        with contextlib.suppress(OSError):
            err.print(f"what exits is not started again any more:\n{told}", soft_wrap=True)


async def heeding_signals(work: Coroutine[Any, Any, None]) -> int:
    """Runs what has processes to stop; Ctrl-C, SIGTERM and a closed terminal cancel it, once, and it is heard out.

    Returns:
        The signal that it ended by; 0 where it ended by itself.
    """
    task = asyncio.ensure_future(work)
    ended_by = 0

    def end(number: int) -> None:
        nonlocal ended_by
        # The kernel and the shell both tell of a closed terminal; stopping in order must not be cut short.
        if not ended_by:
            ended_by = number
            task.cancel()
        # Before the task can print; but whatever comes of this, it has been told to end.
        if number == signal.SIGHUP:
            _leave_terminal()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup has SIGHUP ignored.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        await task
    except asyncio.CancelledError:
        if not ended_by:
            raise
        return ended_by
    return 0


def _leave_terminal() -> None:
    """What is still written to a terminal that was closed goes nowhere, where it would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    # There are none where `narrate` was started with them closed (>&-).
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError, ValueError):
            # One that is closed no longer says that it is a terminal.
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


async def _foreground(port: int, profile: str) -> None:
    started = False
    try:
        async with ensemble(port, profile, show_logs=True) as supervisor:
            started = True
            where = f"  (API at {supervisor.url}/docs, Ctrl-C stops)"
            err.print(Text.assemble(("ready", "bold green"), " at ", (supervisor.url, "bold"), where))
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                err.print("stopping")
    except asyncio.CancelledError:
        if not started:
            err.print("stopped before it was ready")
            raise


def _detached(port: int, profile: str) -> None:
    settings = read_settings(CommonSettings)
    pull_all(Catalogue().for_profile(profile))
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    log = settings.data_dir / "logs" / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        command = [sys.executable, "-m", "narrative.cli.main", "up", "--port", str(port), "--profile", profile]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        with err.status("starting the ensemble"):
            out.print(_url_when_ready(process, state_file(settings.data_dir), log))
    except BaseException:
        # Ctrl-C does not reach it by itself, and nobody would know that it runs.
        process.terminate()
        raise


def _url_when_ready(process: "subprocess.Popen[bytes]", state_path: Path, log: Path) -> str:
    """Where an ensemble that is being started can be reached, once it can.

    Raises:
        ServiceUnavailable: it ended, with the end of its log; or it takes too long.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S + 10
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServiceUnavailable(f"the ensemble did not start:\n{log.read_text(errors='replace')[-3000:]}")
        state = running_ensemble(state_path)
        if state is not None and state["supervisor"] == process.pid and state["ready"]:
            return str(state["url"])
        time.sleep(0.1)
    raise ServiceUnavailable(f"not ready after {READY_TIMEOUT_S:.0f} s; see {log}")


async def _show_start(supervisor: Supervisor) -> None:
    def table() -> Table:
        rows = Table.grid(padding=(0, 2))
        for managed in supervisor.processes:
            mark = Text("✓", "green") if managed.ready else Text("…", "yellow")
            rows.add_row(mark, managed.name, "ready" if managed.ready else "starting")
        return rows

    waiting = asyncio.create_task(supervisor.wait_ready(READY_TIMEOUT_S))
    try:
        with Live(table(), console=err, transient=True, refresh_per_second=8) as live:
            while not waiting.done():
                live.update(table())
                await asyncio.wait({waiting}, timeout=0.2)
        await waiting
    finally:
        waiting.cancel()
