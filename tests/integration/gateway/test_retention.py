"""Stories go when their time is up, with everything, on both databases; others stay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import sqlalchemy as sa

from gateway.app import running
from gateway.database import open_engine
from gateway.settings import GatewaySettings
from narrative.settings import CommonSettings
from tests.integration.gateway.conftest import files_below, serving
from tests.integration.gateway.fakes import Ensemble

_KEEP_DAYS = 7
_US_PER_DAY = 24 * 3600 * 1_000_000


def rows_of(database_url: str, narrative_id: str) -> dict[str, int]:
    """In how many rows of which tables, DBOS's too, an id is found in some column."""
    engine = open_engine(database_url, 2)
    found = {}
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        for schema in inspector.get_schema_names():
            if schema in ("information_schema", "pg_catalog"):
                continue
            for name in inspector.get_table_names(schema):
                table = sa.Table(name, sa.MetaData(), schema=schema, autoload_with=connection)
                held = sa.or_(*(sa.cast(column, sa.Text).contains(narrative_id) for column in table.columns))
                count = connection.execute(sa.select(sa.func.count()).select_from(table).where(held)).scalar_one()
                if count:
                    found[name] = count
    engine.dispose()
    return found


def age(database_url: str, narrative_id: str, days: float) -> None:
    """Makes a story finish earlier than it did."""
    engine = open_engine(database_url, 2)
    with engine.begin() as connection:
        earlier = sa.text("UPDATE narratives SET finished_at_us = finished_at_us - :us WHERE id = :id")
        connection.execute(earlier, {"us": int(days * _US_PER_DAY), "id": narrative_id})
    engine.dispose()


async def test_what_is_old_goes_whole_and_the_rest_stays(fakes: Ensemble, tmp_path: Path, database_url: str) -> None:
    async with serving(fakes, tmp_path, database_url=database_url) as api:
        old, new = await api.create(), await api.create()
        for one in (old, new):
            assert (await api.finished(one))["status"] == "succeeded"
        gate = fakes.script.hold["asr"] = asyncio.Event()
        unfinished = await api.create()
        kept = [name for name in files_below(api) if f"/{new}/" in name]
        assert {"narratives", "narrative_events", "workflow_status"} <= set(rows_of(database_url, old))

    for one in (old, unfinished):
        await asyncio.to_thread(age, database_url, one, _KEEP_DAYS + 1)
    # At its start a gateway sweeps; two more sweep at the same time, as other gateways would.
    settings = GatewaySettings(
        common=CommonSettings(data_dir=tmp_path),
        database_url=database_url,
        story_retention_days=_KEEP_DAYS,
        drain_s=1.0,
        **fakes.targets,
    )
    async with running(settings) as gateway:
        await asyncio.gather(*(gateway.retention.sweep() for _ in range(2)))
        gate.set()
        while not (await gateway.jobs.get(unfinished)).is_finished:
            await asyncio.sleep(0.02)

    assert rows_of(database_url, old) == {}
    assert rows_of(database_url, new)["narratives"] == 1
    files = files_below(api)
    assert [name for name in files if f"/{old}/" in name] == []
    assert [name for name in files if f"/{new}/" in name] == kept


async def test_stories_are_kept_unless_it_is_asked_for(fakes: Ensemble, tmp_path: Path) -> None:
    async with serving(fakes, tmp_path) as api:
        narrative_id = await api.create()
        await api.finished(narrative_id)
    await asyncio.to_thread(age, api.settings.database_url, narrative_id, 10_000)
    async with running(api.settings) as gateway:
        await gateway.retention.sweep()
        assert (await gateway.jobs.get(narrative_id)).status == "succeeded"


async def test_a_recording_that_never_became_a_story_goes(fakes: Ensemble, tmp_path: Path) -> None:
    async with serving(fakes, tmp_path, upload_retention_s=0.001) as api:
        narrative_id = await api.create()
        await api.finished(narrative_id)
        orphan = Path(api.settings.object_store_url) / "narratives" / ("0" * 32) / "audio"
        orphan.parent.mkdir()
        orphan.write_bytes(b"cut off")
    async with running(api.settings) as gateway:
        await gateway.retention.sweep()
        assert not orphan.exists()
        assert await gateway.objects.size(f"narratives/{narrative_id}/story.json")
