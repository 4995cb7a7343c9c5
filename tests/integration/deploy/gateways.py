"""Gateway processes that share a database and an object store, like the pods of the StatefulSet."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from narrative.ports import free_ports
from tests.integration.gateway.fakes import Ensemble, Script, ensemble

REPLICAS = 2
RECORDING = (Path(__file__).parents[3] / "tests" / "data" / "speech" / "librivox.flac").read_bytes()


@dataclass
class Gateways:
    """The processes.

    Attributes:
        settings: further variables of all.
    """

    fakes: Ensemble
    folder: Path
    database_url: str
    ports: list[int] = field(default_factory=list)
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

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
            **self.settings,
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
async def gateways(
    script: Script, folder: Path, database_url: str, settings: dict[str, str] | None = None
) -> AsyncIterator[Gateways]:
    """Runs two of them around fakes of the services."""
    async with ensemble(script) as fakes:
        running = Gateways(fakes, folder, database_url, settings=settings or {})
        running.ports += free_ports(REPLICAS)
        for number in range(REPLICAS):
            await running.start(number)
        try:
            yield running
        finally:
            for process in running.processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()
