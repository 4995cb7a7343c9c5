"""What a job survives, and how it ends when it does not."""

import asyncio
import time
from pathlib import Path

import pytest

from narrative.errors import AdapterNotFound
from tests.integration.gateway.conftest import Api, files_below, serving, wav
from tests.integration.gateway.fakes import Ensemble


async def test_a_stream_goes_on_where_it_broke_off(api: Api) -> None:
    narrative_id = await api.create()
    await api.finished(narrative_id)
    all_events = [event async for event in api.events(narrative_id)]

    rest = [event async for event in api.events(narrative_id, last_event_id=all_events[3]["id"])]

    assert rest == all_events[4:]
    # A browser comes back after the last event as well, and would hold its connection for good.
    headers = {"Last-Event-ID": str(all_events[-1]["id"])}
    assert (await api.http.get(f"/v1/narratives/{narrative_id}/events", headers=headers)).status_code == 204


async def test_a_stream_that_is_silent_is_kept_alive(fakes: Ensemble, tmp_path: Path) -> None:
    gate = fakes.script.hold["asr"] = asyncio.Event()
    async with serving(fakes, tmp_path, keep_alive_s=0.1) as api:
        narrative_id = await api.create()
        async with api.http.stream("GET", f"/v1/narratives/{narrative_id}/events") as response:
            async for line in response.aiter_lines():
                if line == ": keep-alive":
                    gate.set()
                if line == "event: finished":
                    break
        assert gate.is_set()


async def test_the_same_key_gives_the_same_narrative(api: Api) -> None:
    headers = {"Idempotency-Key": "one"}
    first = await api.create({"seed": 1}, headers=headers)

    assert await api.create({"seed": 1}, headers=headers) == first
    other = await api.post({"seed": 2}, headers=headers)
    assert other.status_code == 409
    assert other.json()["type"] == "urn:narrative:error:Conflict"
    assert await api.create({"seed": 1}, headers={"Idempotency-Key": "two"}) != first
    assert (await api.finished(first))["status"] == "succeeded"


async def test_the_same_key_at_the_same_moment(api: Api) -> None:
    ids = await asyncio.gather(*(api.create({}, headers={"Idempotency-Key": "k"}) for _ in range(5)))

    assert len(set(ids)) == 1
    await api.finished(ids[0])
    assert api.ensemble.script.calls["asr"] == 1
    assert {path.split("/")[1] for path in files_below(api)} == {ids[0]}


@pytest.mark.parametrize("service", ["asr", "prompt", "diffusion"])
async def test_cancelling_stops_the_call_that_runs(api: Api, service: str) -> None:
    api.ensemble.script.hold[service] = asyncio.Event()
    narrative_id = await api.create()
    while not api.ensemble.script.calls[service]:
        await asyncio.sleep(0.01)

    started = time.monotonic()
    cancelled = await api.http.post(f"/v1/narratives/{narrative_id}/cancel")
    again = await api.http.post(f"/v1/narratives/{narrative_id}/cancel")

    assert cancelled.json()["status"] == again.json()["status"] == "cancelled"
    assert (await api.finished(narrative_id)) == {"status": "cancelled", "error": None}
    while not api.ensemble.script.cancelled[service]:
        assert time.monotonic() - started < 5
        await asyncio.sleep(0.01)
    assert (await api.http.get(f"/v1/narratives/{narrative_id}/story.json")).status_code == 409
    assert (await api.http.get(f"/v1/narratives/{narrative_id}/transcript.json")).status_code == (
        404 if service == "asr" else 200
    )


async def test_a_finished_narrative_cannot_be_cancelled(api: Api) -> None:
    narrative_id = await api.create()
    await api.finished(narrative_id)

    response = await api.http.post(f"/v1/narratives/{narrative_id}/cancel")

    assert response.json()["status"] == "succeeded"


async def test_deleting_leaves_nothing(api: Api) -> None:
    gate = api.ensemble.script.hold["asr"] = asyncio.Event()
    narrative_id = await api.create()
    running = await api.http.delete(f"/v1/narratives/{narrative_id}")
    assert running.status_code == 409
    gate.set()
    await api.finished(narrative_id)

    assert (await api.http.delete(f"/v1/narratives/{narrative_id}")).status_code == 204

    for rest in ("", "/events", "/story.json", "/images/0", "/audio"):
        assert (await api.http.get(f"/v1/narratives/{narrative_id}{rest}")).status_code == 404
    assert (await api.http.delete(f"/v1/narratives/{narrative_id}")).status_code == 404
    assert files_below(api) == []


@pytest.mark.parametrize("service", ["asr", "prompt", "diffusion"])
async def test_a_job_waits_for_a_service_that_is_down(api: Api, service: str) -> None:
    await api.ensemble.stop(service)
    narrative_id = await api.create()
    waiting = await api.until(narrative_id, "waiting")
    assert service in waiting["data"]["detail"]

    await api.ensemble.start(service)

    assert (await api.finished(narrative_id))["status"] == "succeeded"


async def test_a_job_whose_service_stays_down_fails_with_its_name(fakes: Ensemble, tmp_path: Path) -> None:
    await fakes.stop("diffusion")
    async with serving(fakes, tmp_path, retry_window_s=0.3) as api:
        narrative_id = await api.create()

        end = await api.finished(narrative_id)

        assert end["status"] == "failed"
        assert end["error"]["status"] == 503
        assert "diffusion" in end["error"]["detail"]
        shown = (await api.http.get(f"/v1/narratives/{narrative_id}")).json()
        assert shown["error"] == end["error"]
        assert (await api.http.get(f"/v1/narratives/{narrative_id}/transcript.json")).status_code == 200


async def test_what_a_service_refuses_is_not_tried_again(api: Api) -> None:
    api.ensemble.script.fail["diffusion"] = AdapterNotFound("there is no adapter 'x'", field="adapters")
    narrative_id = await api.create({"adapters": [{"name": "x"}]})

    end = await api.finished(narrative_id)

    assert end["error"]["type"] == "urn:narrative:error:AdapterNotFound"
    assert end["error"]["status"] == 404
    assert end["error"]["field"] == "adapters"
    assert api.ensemble.script.calls["diffusion"] <= 2  # Once for each speaker.


async def test_silence_has_no_story(api: Api) -> None:
    api.ensemble.script.lines = []
    narrative_id = await api.create()

    end = await api.finished(narrative_id)

    assert end["error"]["type"] == "urn:narrative:error:NoSpeech"
    assert end["error"]["status"] == 422


async def test_one_more_than_may_wait_is_told_when_to_come_back(fakes: Ensemble, tmp_path: Path) -> None:
    gate = fakes.script.hold["asr"] = asyncio.Event()
    async with serving(fakes, tmp_path, max_queued_narratives=1) as api:
        first = await api.create()

        second = await api.post()

        assert second.status_code == 429
        assert int(second.headers["retry-after"]) > 0
        gate.set()
        await api.finished(first)


async def test_no_more_narratives_run_than_may(fakes: Ensemble, tmp_path: Path) -> None:
    gate = fakes.script.hold["asr"] = asyncio.Event()
    async with serving(fakes, tmp_path, max_concurrent_narratives=2) as api:
        made = [await api.create() for _ in range(4)]
        while fakes.script.calls["asr"] < 2:
            await asyncio.sleep(0.01)
        states: list[str] = []
        while states.count("running") < 2:
            states = [(await api.http.get(f"/v1/narratives/{one}")).json()["status"] for one in made]
        assert sorted(states) == ["queued", "queued", "running", "running"]
        assert fakes.script.calls["asr"] == 2
        gate.set()
        for one in made:
            assert (await api.finished(one))["status"] == "succeeded"


async def test_another_gateway_shows_and_cancels(fakes: Ensemble, tmp_path: Path) -> None:
    # DBOS is one per process, so the second gateway is the tables and streams without workflows of its own.
    from gateway.database import Database
    from gateway.events import EventLog
    from gateway.jobs import CANCELLED, Jobs

    async with serving(fakes, tmp_path) as api:
        fakes.script.hold["asr"] = asyncio.Event()
        narrative_id = await api.create()
        database = Database(api.settings.database_url, 2)
        log = EventLog(database, 0.05)
        stream = log.follow(narrative_id, 0, 5.0, lambda: False)
        assert await anext(stream)
        await Jobs(database, log).finish(narrative_id, CANCELLED)
        heard = [event async for happened in stream for event in happened]
        assert heard[-1].type == "finished"
        fakes.script.hold["asr"].set()
        await database.close()


async def test_uploads_are_read_again_only_as_long_as_they_are_kept(fakes: Ensemble, tmp_path: Path) -> None:
    async with serving(fakes, tmp_path) as api:
        name = (await api.http.post("/v1/uploads", files={"file": ("a.wav", wav())})).json()["object"]
    async with serving(fakes, tmp_path, upload_retention_s=0.001) as api:
        while (await api.http.post("/v1/narratives", json={"object": name})).status_code != 404:
            await asyncio.sleep(0.05)
        assert files_below(api) == []
