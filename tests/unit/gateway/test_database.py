"""Writes share commits, and one that fails does not take the others with it. SQLite is a file, not a socket."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.database import Database, events
from gateway.events import FINISHED, Emitter, EventLog, Happened, append


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}", 3)
    await database.migrate()
    yield database
    await database.close()


async def test_events_are_numbered_without_gaps_and_kept_once(database: Database) -> None:
    log = EventLog(database, 0.05)
    await asyncio.gather(*(log.add("a", [(f"k{n % 20}", "stage", {"n": n % 20})]) for n in range(60)))
    await log.add("b", [("k0", "stage", {})])

    kept = await log.since("a", 0)

    assert [event.seq for event in kept] == list(range(1, 21))
    assert [event.seq for event in await log.since("b", 0)] == [1]


async def test_however_many_come_at_once_each_is_added_once_and_in_order(database: Database) -> None:
    log = EventLog(database, 0.05)
    happened: list[Happened] = [(f"k{n % 250}", "stage", {"n": n % 250}) for n in range(500)]
    await log.add("a", happened)

    kept = await log.since("a", 0)

    assert [(event.seq, event.data) for event in kept] == [(n + 1, f'{{"n": {n}}}') for n in range(250)]


async def test_a_write_that_fails_fails_alone(database: Database) -> None:
    def bad(connection: sa.Connection) -> None:
        append(connection, "bad", [("k", "stage", {})])
        raise ValueError("no")

    results = await asyncio.gather(
        *(database.write(lambda c, n=n: append(c, "good", [(f"k{n}", "stage", {})])) for n in range(10)),
        database.write(bad),
        return_exceptions=True,
    )

    assert isinstance(results[-1], ValueError)
    rows = await database.read(lambda c: c.execute(sa.select(events.c.narrative_id)).scalars().all())
    assert set(rows) == {"good"}
    assert len(rows) == 10


async def test_a_listener_hears_what_it_missed_and_what_comes(database: Database) -> None:
    log = EventLog(database, 0.05)
    await log.add("a", [("1", "stage", {})])
    await log.add("a", [("2", "stage", {})])
    heard: list[int] = []

    async def listen() -> None:
        async for happened in log.follow("a", 1, 10.0, lambda: True):
            heard.extend(event.seq for event in happened)

    listening = asyncio.create_task(listen())
    while not heard:
        await asyncio.sleep(0)
    await log.add("a", [("3", "stage", {})])
    await log.add("a", [("end", "finished", {})])
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


async def test_events_on_their_way_come_before_the_last(database: Database) -> None:
    log = EventLog(database, 0.05)
    emitter = Emitter(log, "a")
    for number in range(3):
        emitter.emit(f"k{number}", "stage", {})

    await log.add("a", [*await emitter.rest(), ("end", FINISHED, {})])

    assert [event.type for event in await log.since("a", 0)] == ["stage"] * 3 + [FINISHED]


async def test_what_is_held_comes_after_what_it_waits_for(database: Database) -> None:
    log = EventLog(database, 0.05)
    emitter = Emitter(log, "a")
    emitter.emit("early", "stage", {})
    await asyncio.sleep(0.05)
    await log.add("a", [("first", "status", {})])

    emitter.release()
    while len(kept := await log.since("a", 0)) < 2:
        await asyncio.sleep(0.01)

    assert [event.type for event in kept] == ["status", "stage"]


async def test_what_is_discarded_never_comes(database: Database) -> None:
    log = EventLog(database, 0.05)
    emitter = Emitter(log, "a")
    emitter.emit("k", "stage", {})
    emitter.discard()

    assert await emitter.rest() == []
    assert await log.since("a", 0) == []


async def test_a_listener_of_a_job_that_began_here_is_told_from_memory(database: Database) -> None:
    log = EventLog(database, 0.05)
    await log.add("a", [("1", "stage", {}), ("2", "stage", {})])
    await database.write(lambda connection: connection.execute(events.delete()))

    stream = log.follow("a", 1, 10.0, lambda: True)

    assert [event.seq for event in await anext(stream)] == [2]


async def test_a_listener_is_told_what_another_process_wrote_between(database: Database) -> None:
    log, elsewhere = EventLog(database, 0.05), EventLog(database, 0.05)
    await log.add("a", [("1", "stage", {})])
    await elsewhere.add("a", [("2", "stage", {})])
    await log.add("a", [("3", "stage", {})])

    stream = log.follow("a", 0, 10.0, lambda: True)

    assert [event.seq for event in await anext(stream)] == [1, 2, 3]


async def test_events_of_a_moment_come_together_and_a_gap_is_filled(database: Database) -> None:
    log, elsewhere = EventLog(database, 0.05), EventLog(database, 0.05)
    await log.add("a", [("1", "stage", {})])
    stream = log.follow("a", 0, 10.0, lambda: True)
    await anext(stream)

    await log.add("a", [("2", "stage", {}), ("1", "stage", {})])
    await elsewhere.add("a", [("3", "stage", {})])
    await log.add("a", [("4", "stage", {}), ("5", "stage", {})])

    assert [event.seq for event in await anext(stream)] == [2, 3, 4, 5]


async def test_sqlite_has_one_writer_and_readers_beside_it(database: Database) -> None:
    change = sa.text("INSERT INTO narrative_events VALUES ('a', 1, 'k', 'stage', '{}')")
    wants = threading.Event()

    def second() -> None:
        with database.engine.begin() as connection:
            wants.set()
            connection.execute(sa.text("UPDATE narrative_events SET type = 'seen' WHERE narrative_id = 'a'"))

    with database.engine.begin() as first:
        first.execute(change)
        waiting = asyncio.create_task(asyncio.to_thread(second))
        await asyncio.to_thread(wants.wait)
        assert await database.read(lambda connection: connection.execute(sa.select(events)).all()) == []
        assert not waiting.done()
    await waiting

    (seen,) = await database.read(lambda connection: connection.execute(sa.select(events.c.type)).scalars().all())
    assert seen == "seen"


async def test_the_log_is_moved_into_the_database_also_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.database._CHECKPOINT_EVERY_S", 0.01)
    database = Database(f"sqlite:///{tmp_path / 'x.db'}", 3)
    failed = threading.Event()

    @sa.event.listens_for(database.engine, "before_cursor_execute")
    def fail_once(_: object, __: object, statement: str, *___: object) -> None:
        if "wal_checkpoint" in statement and not failed.is_set():
            failed.set()
            raise sa.exc.OperationalError(statement, {}, Exception("disk I/O error"))

    try:
        await asyncio.to_thread(failed.wait)
        await database.migrate()
        await EventLog(database, 0.05).add("a", [("a-mark-in-the-file", "stage", {})])
        async with asyncio.timeout(10):
            while b"a-mark-in-the-file" not in (tmp_path / "x.db").read_bytes():
                await asyncio.sleep(0.01)
    finally:
        await database.close()
