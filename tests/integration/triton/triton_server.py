"""A real Triton Inference Server as a process, on free ports of this machine."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from narrative.ports import free_ports

ROOT = Path(__file__).parents[3]
START_S = 60.0
STOP_S = 30.0


class TritonServer:
    """``deploy/triton/serve.py``, as anybody would start it.

    Args:
        log: file for what the server and its models say.
        environment: settings of the models.
    """

    def __init__(self, log: Path, environment: dict[str, str] | None = None) -> None:
        self._log = log
        self._environment = os.environ | (environment or {})
        self._ports = free_ports(3)
        self.url = f"127.0.0.1:{self._ports[0]}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        grpc_port, http_port, metrics_port = self._ports
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    ROOT / "deploy" / "triton" / "serve.py",
                    f"--grpc-port={grpc_port}",
                    f"--http-port={http_port}",
                    f"--metrics-port={metrics_port}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                # With it its models can be ended as one group.
                start_new_session=True,
            )
        until_s = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until_s:
                raise AssertionError(f"Triton does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends it as its user would."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Ends it as the kernel does where memory runs out."""
        self._end(signal.SIGKILL)

    def executions(self, model: str) -> tuple[int, int]:
        """Requests that a model has answered since it was loaded, and the batches in which it was given them."""
        with InferenceServerClient(self.url) as client:

            def counted() -> tuple[int, int]:
                stats = client.get_inference_statistics(model).model_stats[0]
                return stats.inference_count, stats.execution_count

            # It counts a request some time after it has answered it.
            earlier, now = (-1, -1), counted()
            while now != earlier:
                time.sleep(0.3)
                earlier, now = now, counted()
            return now

    def states(self) -> dict[str, str]:
        """Models of the repository and their states, "" for one that was never loaded."""
        with InferenceServerClient(self.url) as client:
            return {model.name: model.state for model in client.get_model_repository_index().models}

    def unload(self, model: str) -> None:
        """As an operator would, and waits until it is done."""
        with InferenceServerClient(self.url) as client:
            client.unload_model(model)
        until_s = time.monotonic() + STOP_S
        while self.states()[model] != "UNAVAILABLE":
            assert time.monotonic() < until_s
            time.sleep(0.05)

    def processor_s(self) -> float:
        """Seconds of processor time that the server and its models have used since they were started."""
        ticks = sum(int(fields[11]) + int(fields[12]) for _, fields in self._processes())
        return ticks / os.sysconf("SC_CLK_TCK")

    def kill_model(self, model: str) -> None:
        """Ends the process of a model as the kernel does where memory runs out."""
        for pid, _ in self._processes():
            with contextlib.suppress(OSError):
                if f"/{model}/1/model.py" in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)

    def _processes(self) -> Iterator[tuple[int, list[str]]]:
        """The server and its models, each with the fields of /proc/PID/stat from its state on."""
        assert self._process is not None
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                # The name of a process may hold spaces; behind it are state, parent and group.
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self._process.pid:
                    yield int(stat.parent.name), fields

    def _answers(self) -> bool:
        with InferenceServerClient(self.url) as client, contextlib.suppress(InferenceServerException):
            return bool(client.is_server_live())
        return False

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
