"""Jobs as rows: created once, finished once, unless they are taken up again."""

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Self, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import IntegrityError

from gateway.database import Database, events, narratives
from gateway.events import FINISHED, STOPPED, Event, EventLog, Happened, append
from narrative.errors import Conflict, NotFound

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = "queued", "running", "succeeded", "failed", "cancelled"
UNFINISHED = (QUEUED, RUNNING)
STATUSES = (QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED)


@dataclass(frozen=True, kw_only=True)
class BaseJob:
    """What every kind of job has.

    Attributes:
        created_at_us: microseconds since 1970, UTC; finished_at_us likewise.
        request_digest: SHA-256 of everything that was asked for, to compare requests under one key.
        idempotency_digest: SHA-256 of the caller's key; None without one.
        error: RFC 9457 problem document of a job that failed.
    """

    id: str
    created_at_us: int
    finished_at_us: int | None
    status: str
    executor_id: str
    request_id: str
    request_digest: str
    idempotency_digest: str | None
    error: dict[str, Any] | None

    @classmethod
    def queued(cls, executor_id: str, request_digest: str, idempotency_digest: str | None, **own: Any) -> Self:
        """A new job, of the request that is being answered; ``own`` are the fields of its kind."""
        return cls(
            id=secrets.token_hex(16),
            created_at_us=now_us(),
            finished_at_us=None,
            status=QUEUED,
            executor_id=executor_id,
            request_id=structlog.contextvars.get_contextvars().get("request_id", ""),
            request_digest=request_digest,
            idempotency_digest=idempotency_digest,
            error=None,
            **own,
        )

    @property
    def is_finished(self) -> bool:
        return self.status not in UNFINISHED


@dataclass(frozen=True, kw_only=True)
class Job(BaseJob):
    """One narrative."""

    filename: str
    media_type: str
    audio_bytes: int
    options: dict[str, Any]


J = TypeVar("J", bound=BaseJob)


class JobTable(Generic[J]):
    """Jobs of one kind.

    Args:
        table: has a column for every field of ``row``.
        noun: what a caller knows a job as.
    """

    def __init__(self, database: Database, log: EventLog, table: sa.Table, row: type[J], noun: str) -> None:
        self._database = database
        self._log = log
        self._table = table
        self._row = row
        self._noun = noun
        # An update of one job, unless it has finished; its parameters besides job_id are the columns it sets.
        self._unfinished = table.update().where(table.c.id == sa.bindparam("job_id"), table.c.status.in_(UNFINISHED))

    async def create(self, job: J) -> J:
        """Adds a job, or returns the one made earlier by the same request under the same key.

        Raises:
            Conflict: the key was used for another request.
        """

        def change(connection: sa.Connection) -> list[Event]:
            connection.execute(self._table.insert(), job.__dict__)
            return append(connection, job.id, [_status(QUEUED)])

        try:
            self._log.publish(job.id, await self._database.write(change))
            return job
        except IntegrityError:
            earlier = await self.earlier(job.idempotency_digest, job.request_digest)
            if earlier is None:
                raise
            return earlier

    async def earlier(self, idempotency_digest: str | None, request_digest: str) -> J | None:
        """The job made earlier under the same key; None where there is none, or no key.

        Raises:
            Conflict: it was asked for with something else.
        """
        if idempotency_digest is None:
            return None
        found = await self._first(self._table.c.idempotency_digest == idempotency_digest)
        if found is not None and found.request_digest != request_digest:
            raise Conflict(
                f"the Idempotency-Key was used for another request, {self._noun} {found.id}; send a new key",
                field="Idempotency-Key",
            )
        return found

    async def get(self, job_id: str) -> J:
        """Raises NotFound where there is no such job."""
        job = await self._first(self._table.c.id == job_id)
        if job is None:
            raise NotFound(f"there is no {self._noun} {job_id!r}")
        return job

    async def page(self, status: str | None, before: tuple[int, str] | None, limit: int) -> list[J]:
        """Jobs from the newest, ``limit`` of them, older than ``before`` (created_at_us, id)."""
        query = (
            sa.select(self._table).order_by(self._table.c.created_at_us.desc(), self._table.c.id.desc()).limit(limit)
        )
        if status is not None:
            query = query.where(self._table.c.status == status)
        if before is not None:
            query = query.where(sa.tuple_(self._table.c.created_at_us, self._table.c.id) < sa.tuple_(*before))
        rows = await self._database.read(lambda connection: connection.execute(query).mappings().all())
        return [self._row(**row) for row in rows]

    async def unfinished(self, executor_id: str) -> list[str]:
        """Ids of an executor's jobs that are not finished, oldest first."""
        query = (
            sa.select(self._table.c.id)
            .where(self._table.c.status.in_(UNFINISHED), self._table.c.executor_id == executor_id)
            .order_by(self._table.c.created_at_us)
        )
        return await self._database.read(lambda connection: list(connection.execute(query).scalars()))

    async def finished_before(self, at_us: int, limit: int) -> list[str]:
        """Ids of jobs that finished before a moment (microseconds since 1970, UTC), oldest first."""
        query = (
            sa.select(self._table.c.id)
            .where(self._table.c.status.not_in(UNFINISHED), self._table.c.finished_at_us < at_us)
            .order_by(self._table.c.finished_at_us)
            .limit(limit)
        )
        return await self._database.read(lambda connection: list(connection.execute(query).scalars()))

    async def known(self, job_ids: Sequence[str]) -> set[str]:
        """Those of some ids that are in the table."""
        query = sa.select(self._table.c.id).where(self._table.c.id.in_(job_ids))
        return await self._database.read(lambda connection: set(connection.execute(query).scalars()))

    async def cancelled(self, job_ids: Sequence[str]) -> list[str]:
        """Those of some ids whose jobs were cancelled."""
        query = sa.select(self._table.c.id).where(self._table.c.id.in_(job_ids), self._table.c.status == CANCELLED)
        return await self._database.read(lambda connection: list(connection.execute(query).scalars()))

    async def start(self, job_id: str, after: Sequence[Happened] = ()) -> bool:
        """Marks a job as running; False where it has finished meanwhile.

        Args:
            after: what has happened since it began.
        """

        def change(connection: sa.Connection) -> tuple[bool, list[Event]]:
            if connection.execute(self._unfinished, {"job_id": job_id, "status": RUNNING}).rowcount == 0:
                return False, []
            return True, append(connection, job_id, [_status(RUNNING), *after])

        started, added = await self._database.write(change)
        self._log.publish(job_id, added)
        return started

    async def finish(
        self,
        job_id: str,
        status: str,
        error: Mapping[str, Any] | None = None,
        before: Sequence[Happened] = (),
        **results: Any,
    ) -> bool:
        """Gives a job its final status and the last event; False where it had one already.

        Args:
            before: what happened last before the end.
            results: values of further columns.
        """
        problem = None if error is None else dict(error)
        end = FINISHED, FINISHED, {"status": status, "error": problem}

        def change(connection: sa.Connection) -> tuple[bool, list[Event]]:
            values = {"status": status, "error": problem, "finished_at_us": now_us(), **results}
            if connection.execute(self._unfinished, {"job_id": job_id, **values}).rowcount == 0:
                return False, []
            return True, append(connection, job_id, [*before, end])

        finished, added = await self._database.write(change)
        self._log.publish(job_id, added)
        return finished

    async def reopen(self, job_id: str, executor_id: str) -> bool:
        """Queues a job again that failed or was cancelled; False where it has done neither.

        What was its last event is an event of the type "stopped" from now on.
        """

        def change(connection: sa.Connection) -> tuple[bool, list[Event]]:
            reopened = self._table.update().where(
                self._table.c.id == job_id, self._table.c.status.in_((FAILED, CANCELLED))
            )
            values = reopened.values(status=QUEUED, error=None, finished_at_us=None, executor_id=executor_id)
            if connection.execute(values).rowcount == 0:
                return False, []
            earlier = events.update().where(events.c.narrative_id == job_id)
            # Their keys are needed once more.
            numbered = events.c.key + ":" + sa.cast(events.c.seq, sa.String)
            keys = (FINISHED, f"status:{QUEUED}", f"status:{RUNNING}")
            connection.execute(earlier.where(events.c.type == FINISHED).values(type=STOPPED))
            connection.execute(earlier.where(events.c.key.in_(keys)).values(key=numbered))
            return True, append(connection, job_id, [_status(QUEUED)])

        reopened, added = await self._database.write(change)
        self._log.publish(job_id, added)
        return reopened

    async def delete(self, job_id: str) -> None:
        """Removes a job and its events."""

        def change(connection: sa.Connection) -> None:
            connection.execute(events.delete().where(events.c.narrative_id == job_id))
            connection.execute(self._table.delete().where(self._table.c.id == job_id))

        await self._database.write(change)

    async def _first(self, condition: sa.ColumnElement[bool]) -> J | None:
        query = sa.select(self._table).where(condition)
        row = await self._database.read(lambda connection: connection.execute(query).mappings().first())
        return None if row is None else self._row(**row)


class Jobs(JobTable[Job]):
    """The table of narratives."""

    def __init__(self, database: Database, log: EventLog) -> None:
        super().__init__(database, log, narratives, Job, "narrative")


def _status(status: str) -> Happened:
    return f"status:{status}", "status", {"status": status}


def digest(*parts: str) -> str:
    """SHA-256 of several texts, in hexadecimal."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def now_us() -> int:
    return time.time_ns() // 1000


def timestamp(at_us: int) -> str:
    """RFC 3339, UTC, with milliseconds."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
