"""The work on a narrative begins while its recording and its row are being kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import IO, Any

import pytest

import gateway.clients
import gateway.intake
from narrative.errors import StorageUnavailable
from narrative.objects import Objects
from tests.integration.gateway.conftest import Api, files_below, wav


class Door:
    """Recordings wait here before they are kept."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.fails = False


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    held, put = Door(), Objects.put

    async def put_when_open(self: Objects, key: str, data: bytes | IO[bytes]) -> None:
        if key.endswith("/audio"):
            await held.open.wait()
            if held.fails:
                raise StorageUnavailable("full")
        await put(self, key, data)

    monkeypatch.setattr(Objects, "put", put_when_open)
    return held


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_recording_is_heard_before_it_is_kept(api: Api, door: Door) -> None:
    script = api.ensemble.script
    creating = asyncio.create_task(api.create())
    await until(lambda: script.calls["diffusion"] == 2)
    assert (await api.http.get("/v1/narratives")).json()["data"] == []

    door.open.set()
    narrative_id = await creating

    heard = [event async for event in api.events(narrative_id)]
    assert [event["id"] for event in heard] == list(range(1, len(heard) + 1))
    assert (heard[0]["event"], heard[0]["data"]) == ("status", {"status": "queued"})
    assert heard[-1]["data"] == {"status": "succeeded", "error": None}
    assert script.calls == {"asr": 1, "prompt": 2, "diffusion": 2}
    assert (await api.http.get(f"/v1/narratives/{narrative_id}/audio")).content == wav()


async def test_nothing_is_heard_before_it_is_known_to_be_sound(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    script, probe, looked_at = api.ensemble.script, gateway.intake.probe_audio, threading.Event()

    def probe_when_told(*args: Any) -> None:
        looked_at.wait(10)
        probe(*args)

    monkeypatch.setattr(gateway.intake, "probe_audio", probe_when_told)
    creating = asyncio.create_task(api.create())
    await asyncio.sleep(0.3)
    assert script.calls["asr"] == 0

    looked_at.set()

    assert (await api.finished(await creating))["status"] == "succeeded"


async def test_what_is_no_recording_is_not_heard(api: Api) -> None:
    response = await api.http.post("/v1/narratives", files={"file": ("talk.wav", b"no sound at all" * 100)})

    assert response.status_code == 422
    await asyncio.sleep(0.1)
    assert api.ensemble.script.calls["asr"] == 0
    assert (await api.http.get("/v1/narratives")).json()["data"] == []
    assert files_below(api) == []


async def test_calls_are_let_go_when_they_have_ended(api: Api) -> None:
    assert (await api.finished(await api.create()))["status"] == "succeeded"

    await until(lambda: not gateway.clients._ending)


async def test_what_began_is_given_up_where_the_recording_cannot_be_kept(api: Api, door: Door) -> None:
    script = api.ensemble.script
    script.hold["prompt"] = asyncio.Event()
    door.fails = True
    posting = asyncio.create_task(api.post())
    await until(lambda: script.calls["prompt"] == 2)

    door.open.set()

    assert (await posting).status_code == 503
    await until(lambda: script.cancelled["prompt"] == 2)
    assert (await api.http.get("/v1/narratives")).json()["data"] == []
    assert files_below(api) == []


async def test_a_request_with_a_key_is_not_worked_on_before_it_is_known_to_be_the_first(api: Api, door: Door) -> None:
    creating = asyncio.create_task(api.create(headers={"Idempotency-Key": "k"}))
    await asyncio.sleep(0.3)
    assert api.ensemble.script.calls["asr"] == 0

    door.open.set()

    assert (await api.finished(await creating))["status"] == "succeeded"
