"""An object store that fails: at the door, in the middle of a job, for one job and for all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from narrative.errors import StorageUnavailable
from tests.integration.gateway.conftest import Api, serving, wav
from tests.integration.gateway.fakes import Ensemble


@contextmanager
def out_of_order(folder: Path) -> Iterator[None]:
    """A file where a folder should be: as nobody may write in it, not even root."""
    away = folder.with_name(f"{folder.name}.away")
    there = folder.exists()
    if there:
        folder.rename(away)
    folder.write_text("in the way")
    try:
        yield
    finally:
        folder.unlink()
        if there:
            away.rename(folder)


async def test_a_store_that_is_away_is_named_at_the_door(api: Api) -> None:
    with out_of_order(Path(api.settings.object_store_url)):
        refused = await api.post()
        upload = await api.http.post("/v1/uploads", files={"file": ("a.wav", wav())})
        ready = await api.http.get("/readyz")

    for answer in (refused, upload):
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:narrative:error:StorageUnavailable"
        assert "object store" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) > 0
    assert ready.status_code == 503
    assert set(ready.json()["missing"]) == {"objects"}
    assert "object store" in ready.json()["missing"]["objects"]
    assert (await api.http.get("/v1/narratives")).json()["data"] == []
    assert (await api.finished(await api.create()))["status"] == "succeeded"


async def test_a_store_that_goes_away_in_the_middle_is_waited_for(api: Api) -> None:
    gate = api.ensemble.script.hold["diffusion"] = asyncio.Event()
    narrative_id = await api.create()
    while api.ensemble.script.calls["diffusion"] < 2:
        await asyncio.sleep(0.01)

    with out_of_order(Path(api.settings.object_store_url)):
        gate.set()
        waiting = await api.until(narrative_id, "waiting")
        assert "object store" in waiting["data"]["detail"]

    assert (await api.finished(narrative_id))["status"] == "succeeded"
    # What could not be kept at once was kept later, and not drawn again.
    assert set(api.ensemble.script.pictures.values()) == {1}


async def test_one_that_cannot_be_kept_fails_alone(fakes: Ensemble, tmp_path: Path) -> None:
    async with serving(fakes, tmp_path, retry_window_s=0.5) as api:
        gate = fakes.script.hold["asr"] = asyncio.Event()
        unlucky = await api.create()
        images = Path(api.settings.object_store_url) / "narratives" / unlucky / "images"
        with out_of_order(images):
            other = await api.create()
            gate.set()
            assert (await api.finished(other))["status"] == "succeeded"
            end = await api.finished(unlucky)

        assert end["status"] == "failed"
        assert end["error"]["status"] == 503
        assert end["error"]["type"] == "urn:narrative:error:StorageUnavailable"
        assert "object store" in end["error"]["detail"]


async def test_a_service_that_cannot_read_the_store_is_waited_for(api: Api) -> None:
    """Diffusion fetches adapters from it."""
    api.ensemble.script.fail["diffusion"] = StorageUnavailable("the object store cannot be used: it has gone")
    narrative_id = await api.create()
    waiting = await api.until(narrative_id, "waiting")
    del api.ensemble.script.fail["diffusion"]

    assert waiting["data"]["detail"] == "the object store cannot be used: it has gone"
    assert (await api.finished(narrative_id))["status"] == "succeeded"
