"""The ensemble that runs on this machine, as its state file tells of it."""

import contextlib
import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

STOP_TIMEOUT_S = 40.0


def state_file(data_dir: Path) -> Path:
    """Where a running ensemble says who and where it is."""
    return data_dir / "ensemble.json"


def running_ensemble(path: Path) -> dict[str, object] | None:
    """The state of the ensemble that runs on this machine, or None."""
    try:
        state: dict[str, object] = json.loads(path.read_text())
        supervisor = int(str(state["supervisor"]))
        # After a crash or a reboot somebody else may have its number.
        return state if _is_alive(supervisor) and state["started"] == start_time(supervisor) else None
    except (OSError, ValueError, KeyError):
        return None


def left_behind(path: Path) -> str:
    """What there is to say of processes that still run though their supervisor was killed; empty where none do."""
    try:
        names = list(_still_running(json.loads(path.read_text())))
    except (OSError, ValueError, KeyError):
        return ""
    if running_ensemble(path):
        return ""
    said = f"an ensemble was killed here, and of it still run: {', '.join(names)}; stop them with `narrate down`"
    return said if names else ""


def stop_ensemble(path: Path, timeout_s: float = 2 * STOP_TIMEOUT_S) -> bool:
    """Stops the ensemble of a state file, also one whose supervisor was killed.

    Returns:
        Whether anything ran.
    """
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    supervised = running_ensemble(path) is not None
    pids = [state["supervisor"]] if supervised else list(_still_running(state).values())
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while any(_is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    path.unlink(missing_ok=True)
    return bool(pids)


def start_time(pid: int) -> str | None:
    """When a process started, in ticks since boot; None where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[-1].split()[19]
    except OSError:
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat")
        # A zombie answers to signals, but has ended.
        return not status.exists() or status.read_text().rsplit(")", 1)[-1].split()[0] != "Z"
    except OSError:
        return False


def _still_running(state: dict[str, Any]) -> dict[str, int]:
    """The processes of a state, by name, that still run."""
    # Earlier versions wrote no times.
    started = state.get("processes_started", {})
    return {name: pid for name, pid in state["processes"].items() if _is_ours(pid, started.get(name))}


def _is_ours(pid: int, started: str | None) -> bool:
    """Whether a process id still belongs to a process of the ensemble and not to a newer stranger.

    Args:
        started: its start time; where it is not known, the process must run a module of an ensemble.
    """
    if started is not None:
        return _is_alive(pid) and start_time(pid) == started
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return _is_alive(pid)
    modules = [after for option, after in itertools.pairwise(command) if option == b"-m"]
    return any(module == b"gateway" or module.startswith(b"services.") for module in modules)
