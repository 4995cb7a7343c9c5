"""Narratives as rows: created once, finished once."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gateway.database import Database, events, narratives
from gateway.events import FINISHED, EventLog, append
from narrative.errors import Conflict, NotFound

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = "queued", "running", "succeeded", "failed", "cancelled"
UNFINISHED = (QUEUED, RUNNING)
STATUSES = (QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED)


@dataclass(frozen=True)
class Job:
    """One narrative.

    Attributes:
        created_at_us: microseconds since 1970, UTC; finished_at_us likewise.
        request_digest: SHA-256 of everything that was asked for.
        idempotency_digest: SHA-256 of the caller's key; None without one.
        error: RFC 9457 problem document of a narrative that failed.
    """

    id: str
    created_at_us: int
    finished_at_us: int | None
    status: str
    executor_id: str
    request_id: str
    request_digest: str
    idempotency_digest: str | None
    filename: str
    media_type: str
    audio_bytes: int
    options: dict[str, Any]
    error: dict[str, Any] | None

    @property
    def is_finished(self) -> bool:
        return self.status not in UNFINISHED


class Jobs:
    """The table of narratives."""

    def __init__(self, database: Database, log: EventLog) -> None:
        self._database = database
        self._log = log

    async def create(self, job: Job) -> Job:
        """Adds a narrative, or returns the one made earlier by the same request under the same key.

        Raises:
            Conflict: the key was used for another request.
        """

        def change(connection: sa.Connection) -> Job:
            connection.execute(narratives.insert().values(**job.__dict__))
            append(connection, job.id, f"status:{QUEUED}", "status", {"status": QUEUED})
            return job

        try:
            return await self._database.write(change)
        except IntegrityError:
            earlier = await self.by_key(job.idempotency_digest or "")
            if earlier is None:
                raise
            return same_request(earlier, job.request_digest)

    async def by_key(self, idempotency_digest: str) -> Job | None:
        return await self._first(narratives.c.idempotency_digest == idempotency_digest)

    async def get(self, narrative_id: str) -> Job:
        """Raises NotFound where there is no such narrative."""
        job = await self._first(narratives.c.id == narrative_id)
        if job is None:
            raise NotFound(f"there is no narrative {narrative_id!r}")
        return job

    async def page(self, status: str | None, before: tuple[int, str] | None, limit: int) -> list[Job]:
        """Narratives from the newest, ``limit`` of them, older than ``before`` (created_at_us, id)."""
        query = sa.select(narratives).order_by(narratives.c.created_at_us.desc(), narratives.c.id.desc()).limit(limit)
        if status is not None:
            query = query.where(narratives.c.status == status)
        if before is not None:
            query = query.where(sa.tuple_(narratives.c.created_at_us, narratives.c.id) < sa.tuple_(*before))
        rows = await self._database.read(lambda connection: connection.execute(query).mappings().all())
        return [_job(row) for row in rows]

    async def unfinished(self, executor_id: str) -> list[str]:
        """Ids of an executor's narratives that are not finished, oldest first."""
        query = (
            sa.select(narratives.c.id)
            .where(narratives.c.status.in_(UNFINISHED), narratives.c.executor_id == executor_id)
            .order_by(narratives.c.created_at_us)
        )
        return await self._database.read(lambda connection: list(connection.execute(query).scalars()))

    async def start(self, narrative_id: str) -> bool:
        """Marks a narrative as running; False where it has finished meanwhile."""

        def change(connection: sa.Connection) -> tuple[bool, Any]:
            update = narratives.update().where(narratives.c.id == narrative_id, narratives.c.status.in_(UNFINISHED))
            if connection.execute(update.values(status=RUNNING)).rowcount == 0:
                return False, None
            return True, append(connection, narrative_id, f"status:{RUNNING}", "status", {"status": RUNNING})

        started, event = await self._database.write(change)
        self._log.publish(narrative_id, event)
        return started

    async def finish(self, narrative_id: str, status: str, error: Mapping[str, Any] | None = None) -> bool:
        """Gives a narrative its final status and the last event; False where it had one already."""
        problem = None if error is None else dict(error)

        def change(connection: sa.Connection) -> tuple[bool, Any]:
            update = narratives.update().where(narratives.c.id == narrative_id, narratives.c.status.in_(UNFINISHED))
            values = update.values(status=status, error=problem, finished_at_us=now_us())
            if connection.execute(values).rowcount == 0:
                return False, None
            data = {"status": status, "error": problem}
            return True, append(connection, narrative_id, FINISHED, FINISHED, data)

        finished, event = await self._database.write(change)
        self._log.publish(narrative_id, event)
        return finished

    async def delete(self, narrative_id: str) -> None:
        """Removes a narrative and its events."""

        def change(connection: sa.Connection) -> None:
            connection.execute(events.delete().where(events.c.narrative_id == narrative_id))
            connection.execute(narratives.delete().where(narratives.c.id == narrative_id))

        await self._database.write(change)

    async def _first(self, condition: sa.ColumnElement[bool]) -> Job | None:
        query = sa.select(narratives).where(condition)
        row = await self._database.read(lambda connection: connection.execute(query).mappings().first())
        return None if row is None else _job(row)


def same_request(earlier: Job, request_digest: str) -> Job:
    """The narrative made earlier under the same key.

    Raises:
        Conflict: it was asked for with something else.
    """
    if earlier.request_digest != request_digest:
        raise Conflict(
            f"the Idempotency-Key was used for another request, narrative {earlier.id}; send a new key",
            field="Idempotency-Key",
        )
    return earlier


def now_us() -> int:
    return time.time_ns() // 1000


def timestamp(at_us: int) -> str:
    """RFC 3339, UTC, with milliseconds."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _job(row: Any) -> Job:
    return Job(**row)
