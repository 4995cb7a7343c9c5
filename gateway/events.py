"""What happens to a narrative, numbered, kept, and handed to whoever listens.

Every event has a key that names what happened, so that a step that runs again adds nothing, and a number that grows
by one within its narrative, so that a listener can go on where it broke off.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeAlias

import sqlalchemy as sa
import structlog

from gateway.database import Database, events
from narrative.errors import NarrativeError

# Unseen by people, and long enough for the next stage to get its work first.
_COLLECT_S = 0.02
# Events in one statement; a database takes only so many parameters.
_AT_ONCE = 100
FINISHED = "finished"
# The end of a run that was taken up again.
STOPPED = "stopped"

# What happened: a key that names it, its type, its data.
Happened: TypeAlias = tuple[str, str, dict[str, Any]]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        seq: number within the narrative, from 1.
        type: what happened, for example "image"; the README lists them. The last of a job is "finished".
        data: JSON text.
    """

    seq: int
    type: str
    data: str


def append(connection: sa.Connection, narrative_id: str, happened: Sequence[Happened]) -> list[Event]:
    """Adds events inside a transaction, except those of a key that is there already; returns those added, in order."""
    added: list[Event] = []
    for start in range(0, len(happened), _AT_ONCE):
        some = {
            key: (kind, json.dumps(data, ensure_ascii=False)) for key, kind, data in happened[start : start + _AT_ONCE]
        }
        values = {"narrative_id": narrative_id}
        for position, (key, (kind, text)) in enumerate(some.items()):
            values |= {f"key_{position}": key, f"type_{position}": kind, f"data_{position}": text}
        rows = connection.execute(_statement(len(some)), values)
        added += sorted((Event(row.seq, *some[row.key]) for row in rows), key=lambda event: event.seq)
    return added


@cache
def _statement(count: int) -> sa.TextClause:
    """One statement for ``count`` events: each costs a round trip, or the work of SQLAlchemy, of its own."""
    rows = ", ".join(f"({n}, :key_{n}, :type_{n}, :data_{n})" for n in range(count))
    return sa.text(
        f"""
        INSERT INTO narrative_events (narrative_id, seq, key, type, data)
        SELECT
            CAST(:narrative_id AS VARCHAR(32)),
            (
                SELECT coalesce(max(seq), 0) FROM narrative_events
                WHERE narrative_id = CAST(:narrative_id AS VARCHAR(32))
            ) + row_number() OVER (ORDER BY column1),
            column2, column3, column4
        FROM (VALUES {rows}) AS happened
        WHERE NOT EXISTS (
            SELECT 1 FROM narrative_events
            WHERE narrative_id = CAST(:narrative_id AS VARCHAR(32)) AND key = column2
        )
        ON CONFLICT (narrative_id, key) DO NOTHING
        RETURNING seq, key
        """  # noqa: S608 - numbers only; what callers say goes in as parameters
    )


class Emitter:
    """Adds the events of a job while it runs; nobody waits for them, so those of a moment share a commit.

    Nothing is added before ``release``.

    Args:
        log: where they go.
        job_id: whose they are.
    """

    def __init__(self, log: "EventLog", job_id: str) -> None:
        self._log = log
        self._job_id = job_id
        self._held = True
        self._emitted: set[str] = set()
        self._collected: list[Happened] = []
        self._writes: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._waits = 0

    def emit(self, key: str, kind: str, data: dict[str, Any]) -> None:
        """Adds an event, unless one of that key is there already."""
        if key in self._emitted:
            return
        self._emitted.add(key)
        self._collected.append((key, kind, data))
        self._write_soon()

    def release(self) -> None:
        """From now on events are added."""
        self._held = False
        self._write_soon()

    async def waiting(self, error: NarrativeError) -> None:
        """Says that the job waits for a service, and why."""
        self._waits += 1
        structlog.get_logger().warning("waiting for a service", detail=str(error))
        now = datetime.now(UTC).isoformat()
        self.emit(f"waiting:{now}:{self._waits}", "waiting", {"detail": error.message})

    async def rest(self) -> list[Happened]:
        """What is still to be added, for the caller to add, once what is on its way is in."""
        collected = self._taken()
        await asyncio.gather(*self._writes)
        return collected

    def discard(self) -> None:
        """Forgets what is not on its way."""
        self._taken()

    def _write_soon(self) -> None:
        if self._collected and self._timer is None and not self._held:
            self._timer = asyncio.get_running_loop().call_later(_COLLECT_S, self._write)

    def _write(self) -> None:
        write = asyncio.create_task(self._log.add(self._job_id, self._taken()))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    def _taken(self) -> list[Happened]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        collected, self._collected = self._collected, []
        return collected


class EventLog:
    """Keeps events in the database and wakes the listeners of this process.

    Those of a job that began here are kept in memory too until it has finished, for that is when people listen.

    Args:
        database: where they are kept.
        poll_s: seconds between looks for events that another process wrote.
    """

    def __init__(self, database: Database, poll_s: float) -> None:
        self._database = database
        self._poll_s = poll_s
        self._listeners: dict[str, set[asyncio.Queue[Sequence[Event] | None]]] = defaultdict(set)
        self._recent: dict[str, list[Event]] = {}
        self._closed = False

    async def add(self, narrative_id: str, happened: Sequence[Happened]) -> None:
        """Adds events in one commit and tells the listeners; what is there already by its key is not added again."""
        added = await self._database.write(lambda connection: append(connection, narrative_id, happened))
        self.publish(narrative_id, added)

    def publish(self, narrative_id: str, added: Sequence[Event]) -> None:
        """Tells the listeners of this process of events that are committed."""
        if not added:
            return
        for event in added:
            self._remember(narrative_id, event)
        for listener in self._listeners.get(narrative_id, ()):
            listener.put_nowait(added)

    def _remember(self, narrative_id: str, event: Event) -> None:
        recent = self._recent.setdefault(narrative_id, []) if event.seq == 1 else self._recent.get(narrative_id, [])
        if event.seq == len(recent) + 1 and event.type != FINISHED:
            recent.append(event)
        else:
            # It is over, or another process wrote the one before.
            self._recent.pop(narrative_id, None)

    async def since(self, narrative_id: str, seq: int) -> list[Event]:
        """Events after number ``seq``, in order."""
        query = (
            sa.select(events.c.seq, events.c.type, events.c.data)
            .where(events.c.narrative_id == narrative_id, events.c.seq > seq)
            .order_by(events.c.seq)
        )
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [Event(row.seq, row.type, row.data) for row in rows]

    async def follow(
        self, narrative_id: str, seq: int, keep_alive_s: float, is_local: Callable[[], bool]
    ) -> AsyncIterator[Sequence[Event]]:
        """Yields events after number ``seq``, those of a moment together, until the narrative has finished.

        When nothing happened for a while it yields none.

        Args:
            is_local: says whether this process works on the narrative, and so hears of its events by itself.
        """
        queue: asyncio.Queue[Sequence[Event] | None] = asyncio.Queue()
        self._listeners[narrative_id].add(queue)
        try:
            recent = self._recent.get(narrative_id)
            missed: Sequence[Event] = await self.since(narrative_id, seq) if recent is None else recent[seq:]
            silent_s = 0.0
            while not self._closed:
                missed = [event for event in missed if event.seq > seq]
                if missed:
                    seq, silent_s = missed[-1].seq, 0.0
                    yield missed
                    if missed[-1].type == FINISHED:
                        return
                wait_s = keep_alive_s if is_local() else min(self._poll_s, keep_alive_s)
                try:
                    async with asyncio.timeout(wait_s):
                        heard = [await queue.get()]
                except TimeoutError:
                    missed = await self.since(narrative_id, seq)
                    silent_s += wait_s
                    if not missed and silent_s >= keep_alive_s:
                        silent_s = 0.0
                        yield []
                    continue
                while not queue.empty():
                    heard.append(queue.get_nowait())
                missed = [event for events in heard for event in events or ()]
                # A gap is an event of another process, or one committed but not told yet: the table knows.
                if None in heard or not _is_gapless(seq, missed):
                    missed = await self.since(narrative_id, seq)
        finally:
            self._listeners[narrative_id].discard(queue)
            if not self._listeners[narrative_id]:
                del self._listeners[narrative_id]

    def close(self) -> None:
        """Ends every stream; a listener may come back with the number of its last event."""
        self._closed = True
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.put_nowait(None)


def _is_gapless(seq: int, heard: Sequence[Event]) -> bool:
    """Whether every event after number ``seq`` comes right after the one before it."""
    for event in heard:
        if event.seq > seq + 1:
            return False
        seq = max(seq, event.seq)
    return True
