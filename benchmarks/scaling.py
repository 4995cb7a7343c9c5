"""Does diffusion scale by adding replicas, and is anything lost when they go?  python -m benchmarks.scaling

Real processes on loopback addresses of their own, found through DNS, asked as the gateway asks; the engine is the fake,
which sleeps for a fixed time a picture, so that two cores are enough to see what the rest costs.
"""

import argparse
import asyncio
import statistics
import time

import structlog

from tests.integration.scaling.replicas import Cluster, Replica, cluster

PER_REPLICA_IN_FLIGHT = 4


async def first_call_s(replica: Replica) -> float:
    started = time.monotonic()
    before = await replica.finished_calls()
    while await replica.finished_calls() == before:  # noqa: ASYNC110  the replica is another process
        await asyncio.sleep(0.05)
    return time.monotonic() - started


async def throughputs(running: Cluster, pictures_each: int) -> dict[int, float]:
    found = {}
    for count in (1, 2, 4):
        added = await running.add(count - len(running.replicas))
        stopping = asyncio.Event()
        load = asyncio.create_task(keep_drawing(running, count, stopping))
        waits = await asyncio.gather(*(first_call_s(replica) for replica in added))
        stopping.set()
        await load
        before = [await replica.finished_calls() for replica in running.replicas]
        found[count] = await running.throughput(pictures_each * count, PER_REPLICA_IN_FLIGHT * count)
        shares = [await one.finished_calls() - then for one, then in zip(running.replicas, before, strict=True)]
        print(
            f"{count} replicas: {found[count]:.2f} pictures/s, {found[count] / found[1]:.2f} x of one, "
            f"shares {min(shares)}-{max(shares)}, a new replica drew after {max(waits):.1f} s"
        )
    return found


async def keep_drawing(running: Cluster, replicas: int, stopping: asyncio.Event) -> list[float]:
    """Seconds of every picture drawn until told to stop; raises when one is lost."""
    seconds: list[float] = []

    async def client() -> None:
        while not stopping.is_set():
            started = time.perf_counter()
            await running.draw(len(seconds))
            seconds.append(time.perf_counter() - started)

    await asyncio.gather(*(client() for _ in range(PER_REPLICA_IN_FLIGHT * replicas)))
    return seconds


async def losses(running: Cluster, rounds: int) -> None:
    """Takes replicas away in turn, killed and drained, and puts a new one in the place of each."""
    stopping = asyncio.Event()
    load = asyncio.create_task(keep_drawing(running, len(running.replicas), stopping))
    for number in range(rounds):
        victim = running.replicas[0]
        await (running.kill(victim) if number % 2 else running.drain(victim))
        await running.add(1)
        assert not load.done(), load.exception()
    stopping.set()
    seconds = await load
    print(
        f"{rounds} replicas taken away, half of them killed: {len(seconds)} pictures drawn, none lost; "
        f"seconds a picture p50 {statistics.median(seconds):.2f}, longest {max(seconds):.2f}"
    )


async def measure(picture_s: float, pictures_each: int, rounds: int) -> None:
    async with cluster(picture_s) as running:
        await throughputs(running, pictures_each)
        await losses(running, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture-s", type=float, default=0.5, help="service time of a picture, in seconds")
    parser.add_argument("--pictures", type=int, default=60, help="pictures for every replica")
    parser.add_argument("--rounds", type=int, default=20, help="replicas taken away")
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(measure(chosen.picture_s, chosen.pictures, chosen.rounds))


if __name__ == "__main__":
    main()
