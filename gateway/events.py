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
from typing import Any

import sqlalchemy as sa
import structlog

from gateway.database import Database, events
from narrative.errors import NarrativeError

# Unseen by people, and long enough for the next stage to get its work first.
_COLLECT_S = 0.02
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
    """Adds the events of a job while it runs; nobody waits for them, so those of a moment share a commit.

    Args:
        log: where they go.
        job_id: whose they are.
    """

    def __init__(self, log: "EventLog", job_id: str) -> None:
        self._log = log
        self._job_id = job_id
        self._emitted: set[str] = set()
        self._collected: list[tuple[str, str, dict[str, Any]]] = []
        self._writes: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._waits = 0

    def emit(self, key: str, kind: str, data: dict[str, Any]) -> None:
        """Adds an event, unless one of that key is there already."""
        if key in self._emitted:
            return
        self._emitted.add(key)
        self._collected.append((key, kind, data))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_COLLECT_S, self._write)

    async def waiting(self, error: NarrativeError) -> None:
        """Says that the job waits for a service, and why."""
        self._waits += 1
        structlog.get_logger().warning("waiting for a service", detail=str(error))
        now = datetime.now(UTC).isoformat()
        self.emit(f"waiting:{now}:{self._waits}", "waiting", {"detail": error.message})

    async def flush(self) -> None:
        """Returns when everything is in; what is written to the log from now on comes after it."""
        collected = self._taken()
        if collected:
            await self._log.add(self._job_id, collected)
        await asyncio.gather(*self._writes)

    def discard(self) -> None:
        """Forgets what is not on its way."""
        self._taken()

    def _write(self) -> None:
        write = asyncio.create_task(self._log.add(self._job_id, self._taken()))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    def _taken(self) -> list[tuple[str, str, dict[str, Any]]]:
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
        self._listeners: dict[str, set[asyncio.Queue[Event | None]]] = defaultdict(set)
        self._recent: dict[str, list[Event]] = {}
        self._closed = False

    async def add(self, narrative_id: str, happened: Sequence[tuple[str, str, dict[str, Any]]]) -> None:
        """Adds events in one commit and tells the listeners; what is there already by its key is not added again.

        Args:
            happened: of every event its key, type and data.
        """

        def change(connection: sa.Connection) -> list[Event | None]:
            return [append(connection, narrative_id, key, kind, data) for key, kind, data in happened]

        for event in await self._database.write(change):
            self.publish(narrative_id, event)

    def publish(self, narrative_id: str, event: Event | None) -> None:
        """Tells the listeners of this process of an event that is committed."""
        if event is None:
            return
        recent = self._recent.setdefault(narrative_id, []) if event.seq == 1 else self._recent.get(narrative_id, [])
        if event.seq == len(recent) + 1 and event.type != FINISHED:
            recent.append(event)
        else:
            # It is over, or another process wrote the one before.
            self._recent.pop(narrative_id, None)
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
            recent = self._recent.get(narrative_id)
            missed = await self.since(narrative_id, seq) if recent is None else recent[seq:]
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
