"""Databases of earlier and later releases, and several gateways that start on an empty one together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from gateway.app import running
from gateway.database import metadata, open_engine
from gateway.migrations import VERSION_TABLE, upgrade
from gateway.settings import GatewaySettings
from narrative.ports import free_port
from narrative.settings import CommonSettings
from tests.integration.gateway.fakes import Ensemble
from tests.integration.gateway.test_crash import environment_of, process

BEFORE_REVISIONS = Path(__file__).parents[2] / "data" / "gateway" / "schema-4687e9d.sql"
STORY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = open_engine(database_url, 4)
    yield engine
    engine.dispose()


def make_old_tables(engine: sa.Engine) -> None:
    text = BEFORE_REVISIONS.read_text()
    statements = "\n".join(line for line in text.splitlines() if not line.startswith("--")).split(";")
    with engine.begin() as connection:
        for statement in filter(str.strip, statements):
            connection.exec_driver_sql(statement)


def revision_of(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars())


def test_the_revisions_make_what_the_code_expects(engine: sa.Engine) -> None:
    upgrade(engine)

    with engine.connect() as connection:
        ours = {"include_name": lambda name, kind, _: kind != "table" or name in metadata.tables}
        context = MigrationContext.configure(connection, opts=ours)
        assert compare_metadata(context, metadata) == []


def test_one_after_the_other_is_the_same_as_all_at_once(engine: sa.Engine) -> None:
    upgrade(engine, "0001")
    assert revision_of(engine) == ["0001"]
    indexes = {index["name"] for index in sa.inspect(engine).get_indexes("narratives")}
    upgrade(engine)
    upgrade(engine)

    assert "narratives_by_finish" in {index["name"] for index in sa.inspect(engine).get_indexes("narratives")} - indexes


def test_many_at_once_do_it_once(engine: sa.Engine, database_url: str) -> None:
    engines = [open_engine(database_url, 2) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(upgrade, engines))
    for one in engines:
        one.dispose()

    assert len(revision_of(engine)) == 1


async def test_a_database_from_before_revisions_keeps_its_stories(
    engine: sa.Engine, fakes: Ensemble, tmp_path: Path, database_url: str
) -> None:
    make_old_tables(engine)
    settings = GatewaySettings(common=CommonSettings(data_dir=tmp_path), database_url=database_url, **fakes.targets)

    async with running(settings) as gateway:
        job = await gateway.jobs.get(STORY)
        events = await gateway.events.since(STORY, 0)

    assert (job.status, job.filename, job.options, job.audio_bytes) == ("succeeded", "talk.flac", {"seed": 7}, 484_000)
    assert [event.type for event in events] == ["status", "finished"]
    test_the_revisions_make_what_the_code_expects(engine)


async def test_a_release_before_runs_on_the_tables_of_a_later_one(
    engine: sa.Engine, fakes: Ensemble, tmp_path: Path, database_url: str
) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = 'later'"))
        connection.execute(sa.text("ALTER TABLE narratives ADD COLUMN mood VARCHAR(16)"))
    make_story = sa.text(
        "INSERT INTO narratives (id, created_at_us, status, executor_id, request_id, request_digest, filename, "
        "media_type, audio_bytes, options, mood) VALUES (:id, 1, 'succeeded', 'x', '', '', '', '', 0, '{}', 'glad')"
    )
    with engine.begin() as connection:
        connection.execute(make_story, {"id": STORY})
    settings = GatewaySettings(common=CommonSettings(data_dir=tmp_path), database_url=database_url, **fakes.targets)

    async with running(settings) as gateway:
        assert (await gateway.jobs.get(STORY)).status == "succeeded"

    assert revision_of(engine) == ["later"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_gateways_that_start_together_on_an_empty_database(
    fakes: Ensemble, tmp_path: Path, database_url: str
) -> None:
    async with AsyncExitStack() as stack:
        environments = [
            {**environment_of(fakes, tmp_path, database_url), "NARRATIVE_GATEWAY__EXECUTOR_ID": f"gateway-{number}"}
            for number in range(3)
        ]
        await asyncio.gather(
            *(stack.enter_async_context(process(environment, free_port())) for environment in environments)
        )
