"""kill -9 of a real gateway process in the middle of a job, and a restart: nothing is lost, no picture drawn twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.settings import GatewaySettings
from narrative.ports import free_port
from narrative.settings import CommonSettings
from tests.integration.gateway.conftest import Api
from tests.integration.gateway.fakes import Ensemble


@contextlib.asynccontextmanager
async def process(environment: dict[str, str], port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A gateway process that answers."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", env={**os.environ, **environment, "NARRATIVE_GATEWAY__PORT": str(port)}
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            while True:
                assert started.returncode is None
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get("/healthz")).status_code == 200:
                        break
                await asyncio.sleep(0.05)
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


def environment_of(fakes: Ensemble, folder: Path, database_url: str) -> dict[str, str]:
    targets = {f"NARRATIVE_GATEWAY__{name.upper()}": target for name, target in fakes.targets.items()}
    return {
        **targets,
        "NARRATIVE_DATA_DIR": str(folder),
        "NARRATIVE_DATABASE_URL": database_url,
        "NARRATIVE_GATEWAY__EXECUTOR_ID": "crash-test",
        "NARRATIVE_GATEWAY__DRAIN_S": "1",
    }


@pytest.mark.parametrize("killed_during", ["asr", "diffusion"])
async def test_kill_9_loses_nothing_and_repeats_no_picture(
    fakes: Ensemble, tmp_path: Path, database_url: str, killed_during: str
) -> None:
    script = fakes.script
    environment, port = environment_of(fakes, tmp_path, database_url), free_port()
    settings = GatewaySettings(common=CommonSettings(data_dir=tmp_path))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        api = Api(http, settings, fakes)
        async with process(environment, port) as first:
            # In the middle of the pictures: each speaker's first is done, the second is not.
            script.hold[killed_during] = asyncio.Event()
            if killed_during == "diffusion":
                script.hold["diffusion"].set()
                done = asyncio.Event()
                original = script.work

                async def work(service: str, request: object = None) -> None:
                    if service == "diffusion" and sum(script.pictures.values()) >= 2:
                        done.set()
                        await script.hold["never"].wait()
                    await original(service, request)

                script.hold["never"] = asyncio.Event()
                script.work = work  # type: ignore[method-assign]
                narrative_id = await api.create({"num_images": 2, "seed": 10})
                await done.wait()
                while len(list((tmp_path / "objects").rglob("*.png"))) < 2:
                    await asyncio.sleep(0.01)
                script.work = original  # type: ignore[method-assign]
            else:
                narrative_id = await api.create({"num_images": 2, "seed": 10})
                while not script.calls[killed_during]:
                    await asyncio.sleep(0.01)
            seen = [event["id"] async for event in _so_far(api, narrative_id)]
            first.kill()
            await first.wait()
        script.hold.clear()
        async with process(environment, port) as second:
            rest = [event async for event in api.events(narrative_id, last_event_id=seen[-1])]

            assert rest[-1]["data"] == {"status": "succeeded", "error": None}
            ids = seen + [event["id"] for event in rest]
            assert ids == list(range(1, len(ids) + 1))
            assert script.pictures == {10: 1, 11: 1, 12: 1, 13: 1}
            assert script.calls["asr"] == (2 if killed_during == "asr" else 1)
            told = (await http.get(f"/v1/narratives/{narrative_id}/story.json")).json()
            indices = [image["index"] for speaker in told["speakers"] for image in speaker["images"]]
            assert indices == [0, 1, 2, 3]
            second.terminate()
            assert await second.wait() == 0


async def _so_far(api: Api, narrative_id: str) -> AsyncIterator[dict[str, object]]:
    """The events there are now."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            async for event in api.events(narrative_id):
                yield event


async def test_a_drained_gateway_leaves_its_jobs_to_the_next(fakes: Ensemble, tmp_path: Path) -> None:
    environment = environment_of(fakes, tmp_path, f"sqlite:///{tmp_path / 'narratives.db'}")
    port = free_port()
    settings = GatewaySettings(common=CommonSettings(data_dir=tmp_path))
    fakes.script.hold["prompt"] = asyncio.Event()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        api = Api(http, settings, fakes)
        async with process(environment, port) as first:
            narrative_id = await api.create()
            await api.until(narrative_id, "transcript")
            first.terminate()
            assert await first.wait() == 0
        fakes.script.hold.clear()
        async with process(environment, port):
            assert (await api.finished(narrative_id))["status"] == "succeeded"
            assert fakes.script.calls["asr"] == 1
