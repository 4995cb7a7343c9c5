"""What happens to a narrative, numbered, kept, and handed to whoever listens.

Every event has a key that names what happened, so that a step that runs again adds nothing, and a number that grows
by one within its narrative, so that a listener can go on where it broke off.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
import structlog

from gateway.database import Database, events
from narrative.errors import NarrativeError

FINISHED = "finished"
# The end of a run that was taken up again.
STOPPED = "stopped"

_APPEND = sa.text(
    """
    INSERT INTO narrative_events (narrative_id, seq, key, type, data)
    SELECT CAST(:narrative_id AS VARCHAR(32)), coalesce(max(seq), 0) + 1, :key, :type, :data
    FROM narrative_events WHERE narrative_id = CAST(:narrative_id AS VARCHAR(32))
    ON CONFLICT (narrative_id, key) DO NOTHING
    RETURNING seq
    """
)


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


def append(connection: sa.Connection, narrative_id: str, key: str, kind: str, data: dict[str, Any]) -> Event | None:
    """Adds an event inside a transaction; None where one of that key is there already."""
    text = json.dumps(data, ensure_ascii=False)
    values = {"narrative_id": narrative_id, "key": key, "type": kind, "data": text}
    row = connection.execute(_APPEND, values).first()
    return None if row is None else Event(row.seq, kind, text)


class Emitter:
    """Adds the events of a job while it runs; nobody waits for them, so they share commits.

    Args:
        log: where they go.
        job_id: whose they are.
    """

    def __init__(self, log: "EventLog", job_id: str) -> None:
        self._log = log
        self._job_id = job_id
        self._pending: set[asyncio.Task[None]] = set()
        self._emitted: set[str] = set()
        self._waits = 0

    def emit(self, key: str, kind: str, data: dict[str, Any]) -> None:
        """Adds an event, unless one of that key is there already."""
        if key in self._emitted:
            return
        self._emitted.add(key)
        task = asyncio.create_task(self._log.add(self._job_id, key, kind, data))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def waiting(self, error: NarrativeError) -> None:
        """Says that the job waits for a service, and why."""
        self._waits += 1
        structlog.get_logger().warning("waiting for a service", detail=error.message)
        now = datetime.now(UTC).isoformat()
        self.emit(f"waiting:{now}:{self._waits}", "waiting", {"detail": error.message})

    async def flush(self) -> None:
        """Returns when everything is in; to be called before the job's last event."""
        if self._pending:
            await asyncio.gather(*self._pending)


class EventLog:
    """Keeps events in the database and wakes the listeners of this process.

    Args:
        database: where they are kept.
        poll_s: seconds between looks for events that another process wrote.
    """

    def __init__(self, database: Database, poll_s: float) -> None:
        self._database = database
        self._poll_s = poll_s
        self._listeners: dict[str, set[asyncio.Queue[Event | None]]] = defaultdict(set)
        self._closed = False

    async def add(self, narrative_id: str, key: str, kind: str, data: dict[str, Any]) -> None:
        """Adds an event and tells the listeners, unless one of that key is there already."""
        event = await self._database.write(lambda connection: append(connection, narrative_id, key, kind, data))
        self.publish(narrative_id, event)

    def publish(self, narrative_id: str, event: Event | None) -> None:
        """Tells the listeners of this process of an event that is committed."""
        if event is not None:
            for listener in self._listeners.get(narrative_id, ()):
                listener.put_nowait(event)

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
    ) -> AsyncIterator[Event | None]:
        """Yields events after number ``seq`` until the narrative has finished; None when nothing happened for a while.

        Args:
            is_local: says whether this process works on the narrative, and so hears of its events by itself.
        """
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._listeners[narrative_id].add(queue)
        try:
            missed = await self.since(narrative_id, seq)
            silent_s = 0.0
            while not self._closed:
                for event in missed:
                    if event.seq <= seq:
                        continue
                    seq, silent_s = event.seq, 0.0
                    yield event
                    if event.type == FINISHED:
                        return
                wait_s = keep_alive_s if is_local() else min(self._poll_s, keep_alive_s)
                try:
                    heard = await asyncio.wait_for(queue.get(), wait_s)
                except TimeoutError:
                    missed = await self.since(narrative_id, seq)
                    silent_s += wait_s
                    if not missed and silent_s >= keep_alive_s:
                        silent_s = 0.0
                        yield None
                else:
                    # A gap is an event of another process, or one committed but not told yet: the table knows.
                    in_order = heard is not None and heard.seq <= seq + 1
                    missed = [heard] if in_order and heard is not None else await self.since(narrative_id, seq)
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
