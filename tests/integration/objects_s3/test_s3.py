"""A gateway process whose bytes are in S3: moto's server, which speaks the protocol; the services are fakes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.gateway.fakes import Ensemble, ensemble

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]
ROOT = Path(__file__).parents[3]
RECORDING = (ROOT / "tests" / "data" / "speech" / "librivox.flac").read_bytes()
BUCKET = "stories"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
async def gateway(fakes: Ensemble, s3: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NARRATIVE_", "AWS_"))}
    environment |= {f"NARRATIVE_GATEWAY__{name.upper()}": target for name, target in fakes.targets.items()}
    environment |= {
        "NARRATIVE_LOG_LEVEL": "error",
        "NARRATIVE_DATA_DIR": str(folder),
        "NARRATIVE_GATEWAY__PORT": str(port),
        "NARRATIVE_GATEWAY__OBJECT_STORE_URL": f"s3://{BUCKET}/narrative",
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


async def test_a_story_lives_in_s3_and_leaves_nothing_when_it_is_deleted(s3: str, tmp_path: Path) -> None:
    async with ensemble() as fakes, gateway(fakes, s3, tmp_path) as http:
        accepted = await http.post("/v1/narratives", files={"file": ("talk.flac", RECORDING)})
        assert accepted.status_code == 202, accepted.text
        path = f"/v1/narratives/{accepted.json()['id']}"
        async with asyncio.timeout(30):
            while (state := (await http.get(path)).json())["status"] in ("queued", "running"):
                await asyncio.sleep(0.05)
        assert state["status"] == "succeeded", state

        kept = {key.rpartition("/")[2] for key in keys(s3)}
        assert {"audio", "transcript.json", "story.json", "0.png", "1.png"} <= kept
        assert (await http.get(f"{path}/audio")).content == RECORDING
        assert (await http.get(f"{path}/images/1")).content.startswith(b"\x89PNG")
        story = (await http.get(f"{path}/story.json")).json()
        assert len(story["speakers"]) == 2

        assert (await http.delete(path)).status_code == 204
        assert keys(s3) == set()
        assert all(name.startswith("narratives.db") for name in names_in(tmp_path))


async def test_a_bucket_that_is_not_there_is_missed_by_name(s3: str, tmp_path: Path) -> None:
    async with ensemble() as fakes, gateway(fakes, s3, tmp_path) as http:
        (await http.delete(f"{s3}/{BUCKET}")).raise_for_status()

        ready = await http.get("/readyz")
        refused = await http.post("/v1/narratives", files={"file": ("talk.flac", RECORDING)})

        assert ready.status_code == 503
        assert set(ready.json()["missing"]) == {"objects"}
        assert refused.status_code >= 500
        assert "Traceback" not in refused.text
