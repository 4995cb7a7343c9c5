"""The gateway's tables as they changed: revisions in ``versions``, applied in order when a gateway starts.

A revision only adds (a table, an index, a column that may be empty), so that the release before still runs on what it
leaves: gateways are replaced one after the other, and a release may be rolled back without touching the database. What
is no longer used is removed a release later. DBOS looks after its own tables.
"""

import logging
from pathlib import Path

import sqlalchemy as sa
import structlog
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

# Not alembic's own name, for the database may be shared.
VERSION_TABLE = "gateway_schema"
# Any number that nobody else locks in this database.
_LOCK = 0x6E617272
log = structlog.get_logger()
# It tells of every look that it takes.
logging.getLogger("alembic").setLevel(logging.WARNING)


def upgrade(engine: sa.Engine, to: str = "head") -> None:
    """Brings the tables to revision ``to``; of several gateways that start together one does it, the others wait.

    A database that a later release has left with revisions unknown here stays as it is.
    """
    scripts = ScriptDirectory(str(Path(__file__).parent))
    with engine.connect() as connection:
        _lock(connection)
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        present = context.get_current_heads()
        known = {revision.revision for revision in scripts.walk_revisions()}
        if set(present) <= known:
            _run(connection, scripts, to)
            if (now := context.get_current_heads()) != present:
                log.info("tables brought up to date", revision=", ".join(now))
        else:
            log.info("the database is of a later release", revision=", ".join(present))
        connection.commit()


def _lock(connection: sa.Connection) -> None:
    """Begins a transaction that keeps others from this until it is committed."""
    if connection.dialect.name == "sqlite":
        # Python's driver begins none by itself for a CREATE.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


def _run(connection: sa.Connection, scripts: ScriptDirectory, to: str) -> None:
    def steps(present: object, context: MigrationContext) -> object:
        return scripts._upgrade_revs(to, present)  # type: ignore[arg-type]

    with EnvironmentContext(Config(), scripts, fn=steps) as environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE, transactional_ddl=True)
        environment.run_migrations()
