"""Replicas come and go under load, and nobody who asked for a picture notices."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from replicas import Cluster, Replica, cluster

PICTURE_S = 0.1
IN_FLIGHT = 8
# The channel asks DNS at most every 5 s; the rest is for a busy machine.
FOUND_WITHIN_S = 20.0


@asynccontextmanager
async def load(running: Cluster) -> AsyncIterator[list[int]]:
    """Keeps pictures in flight; yields the seeds drawn so far, and fails with the first picture that is lost."""
    drawn: list[int] = []
    stopping = asyncio.Event()

    async def client(number: int) -> None:
        seed = number
        while not stopping.is_set():
            picture = await running.draw(seed)
            assert picture.seed == seed
            drawn.append(seed)
            seed += IN_FLIGHT

    clients = asyncio.gather(*(client(number) for number in range(IN_FLIGHT)))
    try:
        yield drawn
    finally:
        stopping.set()
        await clients
    assert sorted(drawn) == sorted(set(drawn))


async def until_served(replica: Replica, calls: int) -> float:
    """Seconds until a replica has ended so many calls."""
    started = time.monotonic()
    async with asyncio.timeout(FOUND_WITHIN_S):
        while await replica.finished_calls() < calls:
            await asyncio.sleep(0.05)
    return time.monotonic() - started


@pytest.mark.timeout(240)
async def test_replicas_come_and_go_under_load() -> None:
    async with cluster(PICTURE_S) as running:
        await running.add(2)
        await running.throughput(40, IN_FLIGHT)
        shares = [await replica.finished_calls() for replica in running.replicas]
        assert sum(shares) == 40
        assert min(shares) >= 0.4 * 40

        async with load(running) as drawn:
            for replica in await running.add(2):
                await until_served(replica, 5)

            before = len(drawn)
            await running.drain(running.replicas[0])
            await running.kill(running.replicas[0])
            async with asyncio.timeout(FOUND_WITHIN_S):
                while len(drawn) < before + 40:
                    await asyncio.sleep(0.05)

        assert len(running.replicas) == 2


@pytest.mark.timeout(120)
async def test_pictures_wait_for_the_first_replica() -> None:
    async with cluster(PICTURE_S) as running:
        waiting = asyncio.create_task(running.draw(1))
        await asyncio.wait({waiting}, timeout=0.5)
        assert not waiting.done()

        await running.add(1)

        assert (await waiting).seed == 1
