"""The gateway's tables, beside those of DBOS in the same database, and writes that share a commit."""

import asyncio
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
import structlog
from sqlalchemy import event
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gateway.migrations import upgrade

T = TypeVar("T")
# As often as two gateways may give the same number to events of one narrative before it is an error.
_ATTEMPTS = 5
# Between looks for a database that has gone away.
_OUTAGE_WAIT_S = 0.5
# No checkpoint at a commit: whoever waits for that would wait for the disk too.
_SQLITE_PRAGMAS = (
    "busy_timeout=30000",
    "foreign_keys=ON",
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "wal_autocheckpoint=0",
)
_CHECKPOINT_EVERY_S = 2.0
_JOURNAL_S = 5.0
# DBOS's threads and ours; those that only read do not wait for those that write.
_SQLITE_CONNECTIONS = 6
_CHANGE = re.compile(r"\s*(BEGIN|INSERT|UPDATE|DELETE|REPLACE|WITH|CREATE|ALTER|DROP)\b", re.IGNORECASE)
log = structlog.get_logger()

metadata = sa.MetaData()


def job_columns() -> list[sa.Column[Any]]:
    """The columns that every table of jobs has; a table needs its own."""
    return [
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.Column("finished_at_us", sa.BigInteger),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("executor_id", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("idempotency_digest", sa.String(64), unique=True),
        sa.Column("error", sa.JSON),
    ]


narratives = sa.Table(
    "narratives",
    metadata,
    *job_columns(),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("media_type", sa.String(128), nullable=False),
    sa.Column("audio_bytes", sa.BigInteger, nullable=False),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Index("narratives_by_age", "created_at_us", "id"),
    sa.Index("narratives_by_status", "status", "created_at_us", "id"),
    sa.Index("narratives_by_finish", "finished_at_us"),
)

events = sa.Table(
    "narrative_events",
    metadata,
    sa.Column("narrative_id", sa.String(32), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    # Names what happened, so that a step that runs again adds nothing.
    sa.Column("key", sa.String(200), nullable=False),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.UniqueConstraint("narrative_id", "key"),
)


@event.listens_for(sa.Engine, "handle_error")
def a_refused_connection_is_a_lost_one(context: ExceptionContext) -> None:
    """Marks what fails for want of a database, so that DBOS and we wait for it to come back.

    For all engines, DBOS's too: it goes by the words of the error besides, and psycopg 3.3 has others.
    """
    if context.connection is None and isinstance(context.original_exception, psycopg.OperationalError):
        context.is_disconnect = True


def open_engine(url: str, pool_size: int) -> sa.Engine:
    """Opens a connection pool.

    SQLite keeps a write-ahead log and syncs it at checkpoints, which ``Database`` makes: a killed process loses
    nothing, and a power cut at most the last few seconds.
    """
    if not url.startswith("sqlite"):
        plain = sa.make_url(url.replace("postgres://", "postgresql://", 1))
        return sa.create_engine(
            plain.set(drivername="postgresql+psycopg"), pool_size=pool_size, max_overflow=0, pool_pre_ping=True
        )
    engine = sa.create_engine(url, pool_size=_SQLITE_CONNECTIONS, max_overflow=0, pool_timeout=60)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        for pragma in _SQLITE_PRAGMAS:
            _set_patiently(connection, pragma)

    _one_writer_at_a_time(engine)
    return engine


def _set_patiently(connection: Any, pragma: str) -> None:
    """Sets it; where several open a new database at once, its journal cannot change, and busy_timeout is no help."""
    until = time.monotonic() + _JOURNAL_S
    while True:
        try:
            connection.execute(f"PRAGMA {pragma}")
            return
        except sqlite3.OperationalError as error:
            # Its upper bits say more about the reason.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.02)


def _one_writer_at_a_time(engine: sa.Engine) -> None:
    """SQLite has one lock and lets those who want it sleep, longer and longer; ours wakes the next one at once.

    It is taken at the first change of a connection and given back with the connection.
    """
    lock = threading.Lock()

    @event.listens_for(engine, "before_cursor_execute")
    def take(connection: sa.Connection, _: Any, statement: str, *__: Any) -> None:
        if not connection.info.get("writes") and _CHANGE.match(statement):
            lock.acquire()
            connection.info["writes"] = True

    @event.listens_for(engine, "checkin")
    def give_back(_: Any, record: Any) -> None:
        if record.info.pop("writes", False):
            lock.release()


class Database:
    """Reads on threads; writes one after the other, those that wait together in one commit."""

    def __init__(self, url: str, pool_size: int) -> None:
        self.engine = open_engine(url, pool_size)
        self._readers = ThreadPoolExecutor(max(1, pool_size - 1), thread_name_prefix="db-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="db-write")
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._waiting: list[tuple[Callable[[sa.Connection], Any], asyncio.Future[Any]]] = []
        self._checkpoints = ThreadPoolExecutor(1, thread_name_prefix="db-checkpoint")
        if self.engine.dialect.name == "sqlite":
            self._checkpoints.submit(self._checkpoint)

    async def migrate(self) -> None:
        """Creates the tables, or brings those of an earlier release up to this one."""
        await asyncio.get_running_loop().run_in_executor(self._writer, upgrade, self.engine)

    async def read(self, query: Callable[[sa.Connection], T]) -> T:
        """Runs ``query`` on a connection of its own."""

        def work() -> T:
            with self.engine.connect() as connection:
                return query(connection)

        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def write(self, change: Callable[[sa.Connection], T]) -> T:
        """Runs ``change`` in a transaction, and returns when it is committed; it may run more than once.

        Waits for a database that has gone away, as DBOS does: a narrative must not end for that.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append((change, future))
        self._writer.submit(self._drain)
        # The commit happens in any case; a caller that gives up must not keep others from theirs.
        return await asyncio.shield(future)

    async def close(self) -> None:
        self._closing.set()
        # On threads of their own, not the loop's, which belong to DBOS and may be gone by now.
        for pool in (self._writer, self._readers, self._checkpoints):
            done = asyncio.get_running_loop().create_future()
            pool.submit(done.get_loop().call_soon_threadsafe, done.set_result, None)
            await done
            pool.shutdown()
        self.engine.dispose()

    def _checkpoint(self) -> None:
        """Moves SQLite's log into the database, while others read and write."""
        while not self._closing.wait(_CHECKPOINT_EVERY_S):
            try:
                with self.engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")
            except SQLAlchemyError as error:
                # A full disk, say: nothing is lost, and without another try the log would only grow.
                log.warning("checkpoint failed", error=str(error))

    def _drain(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting, []
        if not batch:
            return
        try:
            with self.engine.begin() as connection:
                results = [change(connection) for change, _ in batch]
        except Exception:
            # One of them failed: each gets a transaction of its own, so that only that one fails.
            for change, future in batch:
                self._alone(change, future)
            return
        for (_, future), result in zip(batch, results, strict=True):
            _settle(future, result)

    def _alone(self, change: Callable[[sa.Connection], Any], future: asyncio.Future[Any]) -> None:
        attempt = 0
        while True:
            try:
                with self.engine.begin() as connection:
                    result = change(connection)
            except DBAPIError as error:
                if error.connection_invalidated and not self._closing.is_set():
                    log.warning("waiting for the database")
                    self._closing.wait(_OUTAGE_WAIT_S)
                    continue
                attempt += 1
                if attempt == _ATTEMPTS:
                    _settle(future, error)
                    return
            except Exception as error:
                _settle(future, error)
                return
            else:
                _settle(future, result)
                return


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    def settle() -> None:
        if future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    loop = future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
