"""What does the ring around one engine cost? A call's time minus its engine's own, at 100 calls in flight.

A real server process of the prompt service with its named fake, which sleeps for a fixed time: gRPC, interceptors,
servicer, metrics and channel on the way there and back. The baseline is the same fake called in this process.

    python -m benchmarks.service_ring [--calls 2000] [--in-flight 100] [--engine-s 1]
"""

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from benchmarks.ring_overhead import percentile
from narrative.ports import free_port
from narrative.runtime.channel import open_channel
from narrative.v1 import prompt_pb2, prompt_pb2_grpc
from services.prompt.engine import Line
from services.prompt.engine_fake import FakePromptEngine
from services.prompt.settings import PromptSettings

SAID = "An old lighthouse stands above the foggy harbour."


@contextlib.asynccontextmanager
async def server(engine_s: float) -> AsyncIterator[str]:
    """The prompt service as a process of its own; yields its address once it is ready."""
    port = free_port()
    environment = {
        **os.environ,
        "NARRATIVE_PROMPT__ENGINE": "fake",
        "NARRATIVE_PROMPT__FAKE_SERVICE_TIME_S": str(engine_s),
        "NARRATIVE_PROMPT__PORT": str(port),
        "NARRATIVE_LOG_LEVEL": "warning",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.prompt", env=environment)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def overheads_ms(
    call: Callable[[], Awaitable[object]], calls: int, in_flight: int, engine_s: float
) -> list[float]:
    """Milliseconds of each call beyond its engine's; ``in_flight`` callers start spread over one call's time."""
    costs: list[float] = []
    numbers = iter(range(calls))

    async def caller(position: int) -> None:
        await asyncio.sleep(engine_s * position / in_flight)
        for _ in numbers:
            started = time.perf_counter()
            await call()
            costs.append((time.perf_counter() - started - engine_s) * 1000)

    await asyncio.gather(*(caller(position) for position in range(in_flight)))
    return costs


async def measure(calls: int, in_flight: int, engine_s: float) -> None:
    bare = FakePromptEngine(PromptSettings(engine="fake", fake_service_time_s=engine_s))
    line = Line(1, "SPEAKER_00", SAID)
    request = prompt_pb2.DescribeSpeakerRequest(
        speaker="SPEAKER_00", language="en", lines=[prompt_pb2.Line(id=1, speaker="SPEAKER_00", text=SAID)]
    )
    async with server(engine_s) as address, open_channel(address) as channel:
        stub = prompt_pb2_grpc.PromptServiceStub(channel)
        await stub.DescribeSpeaker(request, wait_for_ready=True, timeout=60)
        rows = {
            "called directly": lambda: bare.describe("SPEAKER_00", [line], "en"),
            "through its service": lambda: stub.DescribeSpeaker(request, timeout=60),
        }
        print(f"{calls} calls, {in_flight} in flight, engine {engine_s} s: milliseconds over the engine's own time")
        print(f"{'':<24}{'p50':>8}{'p95':>8}{'p99':>8}")
        for name, call in rows.items():
            costs = await overheads_ms(call, calls, in_flight, engine_s)
            print(f"{name:<24}" + "".join(f"{percentile(costs, percent):>8.1f}" for percent in (50, 95, 99)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--engine-s", type=float, default=1.0, help="seconds of engine time a call takes")
    chosen = parser.parse_args()
    asyncio.run(measure(chosen.calls, chosen.in_flight, chosen.engine_s))


if __name__ == "__main__":
    main()
