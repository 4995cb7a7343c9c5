"""Runs the processes of a profile on this machine: start, wait until ready, restart what dies, stop in order."""

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from narrative.cli.running import STOP_TIMEOUT_S, left_behind, running_ensemble, start_time, state_file
from narrative.errors import Conflict, ServiceUnavailable
from narrative.ports import free_ports
from narrative.profiles import ProcessSpec, Profile

RESTART_DELAY_S, LONGEST_DELAY_S = 1.0, 30.0
# A process that ran for this long and exits is no longer one that cannot start.
STEADY_S = 300.0
LOG_TAIL_LINES = 15

LineSink = Callable[[str, str], None]


@dataclass
class Managed:
    """One process under supervision."""

    name: str
    spec: ProcessSpec
    port: int
    log: Path
    process: asyncio.subprocess.Process | None = None
    started: str | None = None
    ready: bool = False
    restarts: int = 0
    reader: asyncio.Task[None] | None = field(default=None, repr=False)


class Supervisor:
    """Starts every process of a profile and keeps it running until told to stop.

    Args:
        profile: what to run.
        data_dir: where logs and the state file go.
        gateway_port: port of the gateway; 0 for a free one. All other ports are free ones.
        on_line: called with (process, line) for every line a process writes.
    """

    def __init__(
        self, profile: Profile, data_dir: Path, gateway_port: int, on_line: LineSink = lambda _name, _line: None
    ) -> None:
        self._profile = profile
        self._state_file = state_file(data_dir)
        self._on_line = on_line
        ports = dict(zip(profile.processes, free_ports(len(profile.processes)), strict=True))
        if gateway_port:
            ports["gateway"] = gateway_port
        logs = data_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.processes = [
            Managed(name, spec, ports[name], logs / f"{name}.log") for name, spec in profile.processes.items()
        ]
        # What the user set wins over the profile.
        self._environment = profile.environment_for(ports) | dict(os.environ)
        self._environment |= {managed.spec.port: str(managed.port) for managed in self.processes}
        self._environment["PYTHONUNBUFFERED"] = "1"
        self.url = f"http://127.0.0.1:{ports['gateway']}"

    async def start(self) -> None:
        """Starts all processes.

        Raises:
            Conflict: an ensemble runs already, or what is left of one, or the gateway's port is taken.
        """
        gateway = next(managed for managed in self.processes if managed.name == "gateway")
        check_startable(self._state_file, gateway.port)
        for managed in self.processes:
            managed.log.unlink(missing_ok=True)
            await self._spawn(managed)
        self._write_state(ready=False)

    async def wait_ready(self, timeout_s: float) -> None:
        """Waits until every process says that it is ready; ``Managed.ready`` follows meanwhile.

        Raises:
            ServiceUnavailable: one exited or was not ready in time; the message ends with its last log lines.
        """
        deadline = time.monotonic() + timeout_s
        pending = list(self.processes)
        while pending:
            for managed in pending:
                assert managed.process is not None
                if managed.process.returncode is not None:
                    assert managed.reader is not None
                    await managed.reader  # Its last words may still be in the pipe.
                    raise ServiceUnavailable(
                        f"{managed.name} exited with status {managed.process.returncode}:\n{log_tail(managed.log)}"
                    )
                managed.ready = await is_ready(managed.spec, managed.port)
            pending = [managed for managed in pending if not managed.ready]
            if pending and time.monotonic() > deadline:
                names = ", ".join(managed.name for managed in pending)
                raise ServiceUnavailable(f"not ready after {timeout_s:.0f} s: {names}\n{log_tail(pending[0].log)}")
            if pending:
                await asyncio.sleep(0.1)
        self._write_state(ready=True)

    async def watch(self) -> None:
        """Restarts processes that exit, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for managed in self.processes:
                group.create_task(self._keep(managed))

    async def _keep(self, managed: Managed) -> None:
        while managed.process is not None:
            began_s = time.monotonic()
            status = await managed.process.wait()
            if time.monotonic() - began_s > STEADY_S:
                managed.restarts = 0
            self._on_line("supervisor", f"{managed.name} exited with status {status}; starting it again")
            await asyncio.sleep(min(LONGEST_DELAY_S, RESTART_DELAY_S * 2 ** min(5, managed.restarts)))
            managed.restarts += 1
            # A disk is full, or memory short: the process is tried again, and all others are kept meanwhile.
            try:
                await self._spawn(managed)
            except OSError as error:
                self._on_line("supervisor", f"{managed.name} cannot be started: {error}")
                continue
            try:
                self._write_state(ready=True)
            except OSError as error:
                self._on_line("supervisor", f"{self._state_file} cannot be written: {error}")

    async def stop(self) -> None:
        """Stops all processes, the gateway first, and removes the state file; does nothing where none was started."""
        if all(managed.process is None for managed in self.processes):
            # The state file may be that of another ensemble, for which this one was refused.
            return
        for managed in reversed(self.processes):
            if managed.process is not None and managed.process.returncode is None:
                managed.process.terminate()
                if managed.name == "gateway":  # It drains while the services are still there.
                    await self._wait_or_kill(managed)
        await asyncio.gather(*(self._wait_or_kill(managed) for managed in self.processes))
        self._state_file.unlink(missing_ok=True)

    async def _wait_or_kill(self, managed: Managed) -> None:
        if managed.process is None:
            return
        try:
            await asyncio.wait_for(managed.process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            managed.process.kill()
            await managed.process.wait()
        if managed.reader is not None:
            # One that failed, on a terminal that is gone, must not keep the others from being stopped.
            await asyncio.wait({managed.reader})

    async def _spawn(self, managed: Managed) -> None:
        managed.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            managed.spec.module,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # Ctrl-C must reach the supervisor alone: it stops the others in order.
            start_new_session=True,
        )
        managed.started = start_time(managed.process.pid)
        managed.reader = asyncio.create_task(self._read(managed, managed.process))

    async def _read(self, managed: Managed, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        failed = False
        with contextlib.ExitStack() as files:
            log: IO[bytes] | None = None
            async for line in _lines(process.stdout):
                # Whom nobody reads stands still once the pipe is full; a disk may have room again.
                try:
                    # Without a buffer: what could not be written would be tried again with every line.
                    log = log or files.enter_context(managed.log.open("ab", buffering=0))
                    log.write(line)
                    failed = False
                except OSError as error:
                    if not failed:
                        self._on_line("supervisor", f"{managed.log} cannot be written: {error}")
                    failed = True
                self._on_line(managed.name, line.decode(errors="replace").rstrip())

    def _write_state(self, *, ready: bool) -> None:
        spawned = [(managed, managed.process) for managed in self.processes if managed.process is not None]
        state = {
            "url": self.url,
            "ready": ready,
            "supervisor": os.getpid(),
            "started": start_time(os.getpid()),
            "processes": {managed.name: process.pid for managed, process in spawned},
            "processes_started": {managed.name: managed.started for managed, _ in spawned},
        }
        temporary = self._state_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(state))
        temporary.replace(self._state_file)


def check_startable(state_path: Path, gateway_port: int) -> None:
    """Raises Conflict where an ensemble runs already, or what is left of one, or the gateway's port is taken."""
    if (running := running_ensemble(state_path)) is not None:
        raise Conflict(f"an ensemble runs already at {running['url']}; stop it with `narrate down`")
    if left := left_behind(state_path):
        raise Conflict(left)
    if gateway_port and not port_is_free(gateway_port):
        raise Conflict(f"port {gateway_port} is taken; choose another with --port, or --port 0 for a free one")


async def is_ready(spec: ProcessSpec, port: int) -> bool:
    """Asks a process for its health."""
    if spec.health == "http":
        async with httpx.AsyncClient(timeout=2.0) as client:
            try:
                return (await client.get(f"http://127.0.0.1:{port}{spec.path}")).status_code == httpx.codes.OK
            except httpx.HTTPError:
                return False
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2.0)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def port_is_free(port: int) -> bool:
    """Whether nobody listens on a port of the loopback address."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def log_tail(path: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log file."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines as they come; one larger than the buffer comes in parts, for who is not read stands still."""
    while True:
        try:
            line = await stream.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            line = await stream.readexactly(error.consumed)
        except asyncio.IncompleteReadError as error:
            line = error.partial
        if not line:
            return
        yield line
