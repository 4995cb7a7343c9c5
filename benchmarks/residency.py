"""What residency costs and what it keeps: python -m benchmarks.residency [events|lease|copy|turns]

events  10,000 random acquires, releases and kills over real gRPC, with the owners' own count of bytes after each grant.
lease   the time that a lease on a resident model adds, from another process.
copy    bringing 1 GiB of weights back, against one copy of the same bytes and against a new pipeline from disk.
turns   a recording and three pictures by turns on a declared device, against the same with everything resident.
"""

import asyncio
import contextlib
import io
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from narrative.cli.supervisor import free_port
from narrative.runtime.channel import open_channel
from narrative.runtime.residency import ResidencyClient
from narrative.v1 import residency_pb2, residency_pb2_grpc

BUDGETS = {"host:0": 100, "host:1": 80}
SIZES = {"small": 20, "middle": 45, "large": 70, "huge": 100}
OWNERS = 12
EVENTS = 10_000
LEASES = 5_000


@contextlib.contextmanager
def residency(devices: str, **settings: str) -> Iterator[str]:
    """The service in a process of its own."""
    port = free_port()
    environment = os.environ | {"NARRATIVE_RESIDENCY__PORT": str(port), "NARRATIVE_RESIDENCY__DEVICES": devices}
    environment |= {"NARRATIVE_LOG_LEVEL": "error"}
    environment |= {f"NARRATIVE_RESIDENCY__{name}": value for name, value in settings.items()}
    process = subprocess.Popen([sys.executable, "-m", "services.residency"], env=environment)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class Owner:
    """One connection and the models behind it; ``held`` is what really lies on the devices, as far as it goes."""

    def __init__(self, number: int, stub: Any, world: "World") -> None:
        self.stub, self.world = stub, world
        self.id = f"owner-{number}"
        self.writing = asyncio.Lock()
        self.held: dict[str, str] = {}
        self.answers: dict[str, asyncio.Future[str]] = {}

    async def write(self, message: residency_pb2.AttachRequest) -> None:
        async with self.writing:
            await self.call.write(message)

    async def connect(self) -> None:
        self.call = self.stub.Attach()
        await self.write(residency_pb2.AttachRequest(hello=residency_pb2.Hello(owner_id=self.id, name=self.id)))
        self.reading = asyncio.create_task(self.read())

    async def read(self) -> None:
        async for message in self.call:
            if message.HasField("granted"):
                lease, device = message.granted.lease_id, message.granted.device
                self.held[lease.split("/")[0]] = device
                self.world.check(device)
                self.answers.pop(lease).set_result(device)
            elif message.HasField("refused"):
                self.world.refused += 1
                self.answers.pop(message.refused.lease_id).set_result("")
            elif message.HasField("offload"):
                model = message.offload.model
                assert not any(lease.startswith(f"{model}/") for lease in self.world.leases[self.id]), (
                    "sent away in use"
                )
                self.held.pop(model, None)
                offloaded = residency_pb2.Offloaded(model=model)
                await self.write(residency_pb2.AttachRequest(offloaded=offloaded))

    async def use(self, model: str) -> None:
        lease = f"{model}/{next(self.world.ids)}"
        answer = self.answers[lease] = asyncio.get_running_loop().create_future()
        acquire = residency_pb2.Acquire(lease_id=lease, model=model, num_bytes=SIZES[model], wait_s=60)
        await self.write(residency_pb2.AttachRequest(acquire=acquire))
        if await answer:
            self.world.leases[self.id].add(lease)
            await asyncio.sleep(random.random() * 0.002)
            self.world.leases[self.id].discard(lease)
            release = residency_pb2.Release(lease_id=lease, is_resident=True)
            await self.write(residency_pb2.AttachRequest(release=release))

    def kill(self) -> None:
        self.held.clear()
        self.world.leases[self.id].clear()
        self.call.cancel()
        self.reading.cancel()
        for answer in self.answers.values():
            answer.cancel()


class World:
    """Everybody, and what is counted."""

    def __init__(self) -> None:
        self.ids = iter(range(1 << 30))
        self.owners: list[Owner] = []
        self.leases: dict[str, set[str]] = {}
        self.refused = self.kills = self.grants = 0
        self.fullest = dict.fromkeys(BUDGETS, 0)

    def check(self, device: str) -> None:
        self.grants += 1
        held = sum(SIZES[model] for owner in self.owners for model, place in owner.held.items() if place == device)
        assert held <= BUDGETS[device], f"{held} bytes on {device}"
        self.fullest[device] = max(self.fullest[device], held)


async def _events() -> None:
    world = World()
    numbers = iter(range(1 << 30))
    left = EVENTS
    with residency('{"host:0": 100, "host:1": 80}', RECOVERY_S="0.1", GRACE_S="0.05", MIN_RESIDENT_S="0") as target:
        async with open_channel(target) as channel:
            await channel.channel_ready()
            stub: Any = residency_pb2_grpc.ResidencyServiceStub(channel)

            async def live() -> None:
                nonlocal left
                while left > 0:
                    owner = Owner(next(numbers), stub, world)
                    world.owners.append(owner)
                    world.leases[owner.id] = set()
                    await owner.connect()
                    for _ in range(random.randint(20, 60)):
                        left -= 2
                        await owner.use(random.choice(list(SIZES)))
                    pending = asyncio.create_task(owner.use(random.choice(list(SIZES))))
                    await asyncio.sleep(0.001)
                    left -= 1
                    world.kills += 1
                    owner.kill()
                    await asyncio.gather(pending, return_exceptions=True)
                    world.owners.remove(owner)

            started_s = time.perf_counter()
            await asyncio.gather(*(live() for _ in range(OWNERS)))
            spent_s = time.perf_counter() - started_s
            async with asyncio.timeout(10):
                while (await stub.GetState(residency_pb2.GetStateRequest())).models:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
    print(
        f"events: {EVENTS - left} in {spent_s:.1f} s, {OWNERS} owners at a time; {world.grants} leases, "
        f"{world.kills} kills, {world.refused} refused; fullest {world.fullest} of {BUDGETS}; "
        "nothing left on the books; no invariant broken"
    )


class _Nothing:
    def load(self, device: str) -> None:
        pass

    def offload(self) -> None:
        pass


def lease() -> None:
    with residency('{"host:0": 100}', RECOVERY_S="0.1") as target:
        client = ResidencyClient(target, "benchmark", 30)
        client.add("model", 50, _Nothing())
        client.start()
        with client.lease("model"):
            pass
        # One after another what is told to the service piles up; with pauses it has been heard by the next time.
        for name, pause_s in (("one after another", 0.0), ("with pauses of 2 ms", 0.002)):
            times_ms = []
            for _ in range(LEASES):
                started_s = time.perf_counter()
                with client.lease("model"):
                    times_ms.append((time.perf_counter() - started_s) * 1000)
                time.sleep(pause_s)
            quantiles = statistics.quantiles(times_ms, n=100)
            figures = f"p50 {quantiles[49]:.3f} ms, p99 {quantiles[98]:.3f} ms (aim: p99 <= 1 ms)"
            print(f"lease: {LEASES} on a resident model, {name}: {figures}")
        client.close()


def copy() -> None:
    import torch
    from diffusers import StableDiffusionPipeline

    from narrative.catalogue import Catalogue
    from narrative.settings import CommonSettings
    from services.diffusion.packed_weights import PackedWeights
    from services.diffusion.pipelines import quiet_libraries

    quiet_libraries()
    device = "cuda:0" if torch.cuda.is_available() else "host:0"
    model = torch.nn.Sequential(*(torch.nn.Linear(4096, 4096, bias=False) for _ in range(16)))
    weights = PackedWeights([model], "memory")
    source = torch.empty(weights.num_bytes, dtype=torch.uint8, pin_memory=device.startswith("cuda"))
    target = torch.device(device if device.startswith("cuda") else "cpu")
    bare, load, offload = [], [], []
    for _ in range(7):
        bare.append(_timed(lambda: torch.empty_like(source, device=target).copy_(source).view(-1)[:1].item()))
        load.append(_timed(lambda: weights.load(device)))
        offload.append(_timed(weights.offload))
    print(
        f"copy ({device}, {weights.num_bytes / 2**30:.2f} GiB): one copy {_ms(bare)}, load {_ms(load)} "
        f"({statistics.median(load) / statistics.median(bare):.2f} of it, aim 1.25), offload {_ms(offload)}"
    )
    folder = Catalogue().resolve("storybook", CommonSettings().models_dir)

    def from_disk() -> StableDiffusionPipeline:
        with contextlib.redirect_stderr(io.StringIO()):
            return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)

    pipeline = from_disk()
    small = PackedWeights([pipeline.unet, pipeline.vae, pipeline.text_encoder], "memory")
    cold, warm = [], []
    for _ in range(5):
        cold.append(_timed(from_disk))
        warm.append(_timed(lambda: small.load(device)))
        small.offload()
    print(
        f"storybook ({small.num_bytes / 2**20:.0f} MiB): new pipeline from disk {_ms(cold)}, load {_ms(warm)} "
        f"({statistics.median(cold) / statistics.median(warm):.0f} times faster, aim 20)"
    )


def turns() -> None:
    """Starts both ensembles of services one after the other in this process and lets them take turns."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration" / "residency"))
    from test_turns import draw, engines, first_seconds, taking_turns, transcribe

    async def told(asr: str, diffusion: str, recording: bytes) -> float:
        started_s = time.perf_counter()
        await transcribe(asr, recording)
        for prompt in ("a boat on the sea", "a forest at night", "a house in the snow"):
            await draw(diffusion, prompt, steps=20)
        return time.perf_counter() - started_s

    async def measure() -> None:
        recording = first_seconds(Path("examples/three-voices.flac"), 12)
        times: dict[str, list[float]] = {"resident": [], "turns": []}
        async with engines() as resident, taking_turns() as (asr, diffusion, _):
            for _ in range(6):
                times["resident"].append(await told(*resident, recording))
                times["turns"].append(await told(asr, diffusion, recording))
        resident_s, turns_s = (statistics.median(times[name][1:]) for name in ("resident", "turns"))
        ratio = turns_s / resident_s
        print(f"turns: resident {resident_s:.2f} s, by turns {turns_s:.2f} s, {ratio:.2f} of it (aim 1.3)")

    asyncio.run(measure())


def _timed(function: object) -> float:
    started_s = time.perf_counter()
    function()  # type: ignore[operator]
    return time.perf_counter() - started_s


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.1f} ms"


def events() -> None:
    asyncio.run(_events())


if __name__ == "__main__":
    parts = {"events": events, "lease": lease, "copy": copy, "turns": turns}
    print(f"load average {os.getloadavg()[0]:.1f}")
    for name in sys.argv[1:] or parts:
        parts[name]()
