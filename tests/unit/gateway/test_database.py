"""Writes share commits, and one that fails does not take the others with it. SQLite is a file, not a socket."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.database import Database, events
from gateway.events import EventLog, append


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}", 3)
    await database.migrate()
    yield database
    await database.close()


async def test_events_are_numbered_without_gaps_and_kept_once(database: Database) -> None:
    log = EventLog(database, 0.05)
    await asyncio.gather(*(log.add("a", f"k{n % 20}", "stage", {"n": n % 20}) for n in range(60)))
    await log.add("b", "k0", "stage", {})

    kept = await log.since("a", 0)

    assert [event.seq for event in kept] == list(range(1, 21))
    assert [event.seq for event in await log.since("b", 0)] == [1]


async def test_a_write_that_fails_fails_alone(database: Database) -> None:
    def bad(connection: sa.Connection) -> None:
        append(connection, "bad", "k", "stage", {})
        raise ValueError("no")

    results = await asyncio.gather(
        *(database.write(lambda c, n=n: append(c, "good", f"k{n}", "stage", {})) for n in range(10)),
        database.write(bad),
        return_exceptions=True,
    )

    assert isinstance(results[-1], ValueError)
    rows = await database.read(lambda c: c.execute(sa.select(events.c.narrative_id)).scalars().all())
    assert set(rows) == {"good"}
    assert len(rows) == 10


async def test_a_listener_hears_what_it_missed_and_what_comes(database: Database) -> None:
    log = EventLog(database, 0.05)
    await log.add("a", "1", "stage", {})
    await log.add("a", "2", "stage", {})
    heard: list[int] = []

    async def listen() -> None:
        async for event in log.follow("a", 1, 10.0, lambda: True):
            assert event is not None
            heard.append(event.seq)

    listening = asyncio.create_task(listen())
    while not heard:
        await asyncio.sleep(0)
    await log.add("a", "3", "stage", {})
    await log.add("a", "end", "finished", {})
    await listening

    assert heard == [2, 3, 4]


async def test_closing_ends_every_stream(database: Database) -> None:
    log = EventLog(database, 0.05)

    async def listen() -> None:
        async for _ in log.follow("a", 0, 10.0, lambda: True):
            pass

    listening = asyncio.create_task(listen())
    while not log._listeners:
        await asyncio.sleep(0)
    log.close()
    await asyncio.wait_for(listening, 5)
