"""A gateway process whose bytes are in S3: moto's server, which speaks the protocol; the services are fakes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from narrative.ports import free_port
from tests.integration.gateway.fakes import Ensemble, ensemble
from tests.integration.objects_s3.door import door

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]
ROOT = Path(__file__).parents[3]
RECORDING = (ROOT / "tests" / "data" / "speech" / "librivox.flac").read_bytes()
BUCKET = "stories"


@pytest.fixture
def s3() -> Iterator[str]:
    """URL of a server with one empty bucket."""
    port = free_port()
    server = subprocess.Popen(
        [ROOT / ".venv-s3" / "bin" / "moto_server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 60
    while True:
        try:
            httpx.put(f"{url}/{BUCKET}").raise_for_status()
            break
        except httpx.TransportError:
            assert server.poll() is None
            assert time.monotonic() < until
    yield url
    server.terminate()
    server.wait()


def keys(s3: str) -> set[str]:
    """Everything in the bucket."""
    listed = ET.fromstring(httpx.get(f"{s3}/{BUCKET}?list-type=2").text)
    return {found.text or "" for found in listed.iter() if found.tag.endswith("Key")}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@contextlib.asynccontextmanager
async def gateway(fakes: Ensemble, s3: str, folder: Path, **settings: str) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway process that is ready; ``settings`` are fields of its own."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NARRATIVE_", "AWS_"))}
    environment |= {f"NARRATIVE_GATEWAY__{name.upper()}": target for name, target in fakes.targets.items()}
    environment |= {
        "NARRATIVE_LOG_LEVEL": "error",
        "NARRATIVE_DATA_DIR": str(folder),
        "NARRATIVE_GATEWAY__PORT": str(port),
        "NARRATIVE_GATEWAY__OBJECT_STORE_URL": f"s3://{BUCKET}/narrative",
        **{f"NARRATIVE_GATEWAY__{name.upper()}": value for name, value in settings.items()},
        "AWS_ENDPOINT_URL": s3,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "gateway", env=environment)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            while True:
                assert process.returncode is None
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get("/readyz")).status_code == 200:
                        break
                await asyncio.sleep(0.05)
            yield http
    finally:
        process.terminate()
        await process.wait()


async def accepted(http: httpx.AsyncClient) -> str:
    """Path of a story that was accepted."""
    response = await http.post("/v1/narratives", files={"file": ("talk.flac", RECORDING)})
    assert response.status_code == 202, response.text
    return f"/v1/narratives/{response.json()['id']}"


async def end_of(http: httpx.AsyncClient, path: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (state := (await http.get(path)).json())["status"] in ("queued", "running"):
            await asyncio.sleep(0.05)
    ended: dict[str, Any] = state
    return ended


async def first_event(http: httpx.AsyncClient, path: str, kind: str) -> dict[str, Any]:
    """The data of the first event of a type."""
    async with asyncio.timeout(60), http.stream("GET", f"{path}/events") as response:
        current = ""
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            current = value if name == "event" else current
            if name == "data" and current == kind:
                data: dict[str, Any] = json.loads(value)
                return data
    raise AssertionError(f"no {kind}")


async def test_a_story_lives_in_s3_and_leaves_nothing_when_it_is_deleted(s3: str, tmp_path: Path) -> None:
    async with ensemble() as fakes, gateway(fakes, s3, tmp_path) as http:
        path = await accepted(http)
        ended = await end_of(http, path)
        assert ended["status"] == "succeeded", ended

        kept = {key.rpartition("/")[2] for key in keys(s3)}
        assert {"audio", "transcript.json", "story.json", "0.png", "1.png"} <= kept
        assert (await http.get(f"{path}/audio")).content == RECORDING
        assert (await http.get(f"{path}/images/1")).content.startswith(b"\x89PNG")
        story = (await http.get(f"{path}/story.json")).json()
        assert len(story["speakers"]) == 2

        assert (await http.delete(path)).status_code == 204
        assert keys(s3) == set()
        assert all(name.startswith("narratives.db") for name in names_in(tmp_path))


async def test_an_old_story_leaves_nothing_in_s3(s3: str, tmp_path: Path) -> None:
    async with ensemble() as fakes:
        async with gateway(fakes, s3, tmp_path) as http:
            path = await accepted(http)
            assert (await end_of(http, path))["status"] == "succeeded"
        async with gateway(fakes, s3, tmp_path, story_retention_days="1e-9") as http, asyncio.timeout(20):
            while keys(s3):
                await asyncio.sleep(0.05)
            while (await http.get(path)).status_code != 404:
                await asyncio.sleep(0.05)


async def test_a_bucket_that_is_not_there_is_missed_by_name(s3: str, tmp_path: Path) -> None:
    async with ensemble() as fakes, gateway(fakes, s3, tmp_path) as http:
        (await http.delete(f"{s3}/{BUCKET}")).raise_for_status()

        ready = await http.get("/readyz")
        refused = await http.post("/v1/narratives", files={"file": ("talk.flac", RECORDING)})

        assert ready.status_code == 503
        assert set(ready.json()["missing"]) == {"objects"}
        assert "bucket is not there" in ready.json()["missing"]["objects"]
        assert refused.status_code == 503
        assert "bucket is not there" in refused.json()["detail"]


@pytest.mark.parametrize("trouble", ["away", "read-only", "full"])
async def test_storage_that_fails_in_the_middle_is_waited_for(s3: str, tmp_path: Path, trouble: str) -> None:
    async with ensemble() as fakes, door(s3, free_port()) as way, gateway(fakes, way.url, tmp_path) as http:
        gate = fakes.script.hold["diffusion"] = asyncio.Event()
        path = await accepted(http)
        while fakes.script.calls["diffusion"] < 2:
            await asyncio.sleep(0.02)

        way.refused = {"away": None, "read-only": (403, "AccessDenied"), "full": (507, "StorageFull")}[trouble]
        if trouble == "away":
            await way.close()
        gate.set()
        waiting = await first_event(http, path, "waiting")
        ready = await http.get("/readyz")
        at_the_door = await http.post("/v1/narratives", files={"file": ("talk.flac", RECORDING)})
        if trouble == "away":
            await way.open()
        way.refused = None
        ended = await end_of(http, path)

        reason = {"away": "does not answer", "read-only": "permission", "full": "no room"}[trouble]
        assert reason in waiting["detail"]
        assert reason in ready.json()["missing"]["objects"]
        assert at_the_door.status_code == 503
        assert reason in at_the_door.json()["detail"]
        assert ended["status"] == "succeeded", ended
        assert set(fakes.script.pictures.values()) == {1}


async def test_storage_that_stays_away_fails_the_story_by_name(s3: str, tmp_path: Path) -> None:
    async with (
        ensemble() as fakes,
        door(s3, free_port()) as way,
        gateway(fakes, way.url, tmp_path, retry_window_s="0.5") as http,
    ):
        gate = fakes.script.hold["diffusion"] = asyncio.Event()
        path = await accepted(http)
        while fakes.script.calls["diffusion"] < 2:
            await asyncio.sleep(0.02)
        way.refused = (507, "StorageFull")
        gate.set()

        ended = await end_of(http, path)

        assert way.refused_writes > 1
        assert ended["status"] == "failed"
        assert ended["error"]["status"] == 503
        assert "the object store cannot be used: it has no room left" in ended["error"]["detail"]
