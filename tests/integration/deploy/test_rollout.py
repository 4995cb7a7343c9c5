"""A rolling update, a lost node and a wrong image, with real processes, as a Service and the kubelet would have it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from narrative.ports import free_port
from tests.integration.deploy.gateways import RECORDING, REPLICAS, Gateways, gateways
from tests.integration.gateway.fakes import Script, ensemble
from tests.integration.gateway.test_crash import environment_of, process

PRE_STOP_S = 0.5
"""The manifest's ten seconds, for a Service in this process: connections handed over before are accepted by then."""


class Front:
    """What a Service does: hands every connection to one of the pods that are ready, in turn."""

    def __init__(self) -> None:
        self.ready: list[int] = []
        self._turn = itertools.count()
        self._open: set[asyncio.Task[None]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = self.ready[next(self._turn) % len(self.ready)]
        to_pod = await asyncio.open_connection("127.0.0.1", port)
        ways = [asyncio.create_task(_copy(reader, to_pod[1])), asyncio.create_task(_copy(to_pod[0], writer))]
        self._open.update(ways)
        await asyncio.wait(ways)
        self._open.difference_update(ways)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    with contextlib.suppress(ConnectionError):
        writer.close()
        await writer.wait_closed()


async def answered(url: str, kind: str) -> int:
    """One request, on a connection of its own and never repeated; returns its status."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        if kind == "story":
            response = await http.post("/v1/narratives", files={"file": ("talk.flac", RECORDING)})
        elif kind == "picture":
            response = await http.post("/v1/images/generations", json={"prompt": "a boat", "response_format": "url"})
        else:
            response = await http.get("/v1/narratives")
    return response.status_code


async def test_a_rolling_update_under_load_fails_no_request(postgres: Any, tmp_path: Path) -> None:
    script = Script(delay_s={"asr": 0.2, "prompt": 0.1, "diffusion": 0.3})
    async with gateways(script, tmp_path, postgres.get_uri()) as running:
        front = Front()
        front.ready = list(running.ports)
        server = await asyncio.start_server(front.connected, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        stopping = asyncio.Event()
        statuses: dict[str, list[int]] = {"story": [], "picture": [], "list": []}

        async def caller(kind: str) -> None:
            while not stopping.is_set():
                statuses[kind].append(await answered(url, kind))

        callers = asyncio.gather(*(caller(kind) for kind in statuses))
        for number in range(REPLICAS):
            # What Kubernetes does: no new connections, preStop, then SIGTERM, the next release, and connections again.
            front.ready = [port for port in running.ports if port != running.ports[number]]
            await asyncio.sleep(PRE_STOP_S)
            await running.restart(number)
            front.ready = list(running.ports)
            before = {kind: len(seen) for kind, seen in statuses.items()}
            while any(len(seen) < before[kind] + 2 for kind, seen in statuses.items()):
                assert not callers.done()
                await asyncio.sleep(0.05)
        stopping.set()
        await callers
        server.close()
        await server.wait_closed()

        assert {kind: set(seen) for kind, seen in statuses.items()} == {"story": {202}, "picture": {200}, "list": {200}}
        assert len(await finished(running)) == len(statuses["story"])


async def finished(running: Gateways) -> list[dict[str, Any]]:
    """All stories, when each has ended well."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.ports[0]}", timeout=30) as http:
        async with asyncio.timeout(90):
            while True:
                stories, cursor = [], ""
                while cursor is not None:
                    page = (await http.get("/v1/narratives", params={"limit": 100, "cursor": cursor})).json()
                    stories += page["data"]
                    cursor = page["next_cursor"]
                assert not [one for one in stories if one["status"] in ("failed", "cancelled")], stories
                if all(one["status"] == "succeeded" for one in stories):
                    return stories
                await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def pods(ports: dict[str, int], folder: Path) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """A node's replicas of the services that a story needs, with the fakes that they bring along."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NARRATIVE_")}
    environment |= {"NARRATIVE_LOG_LEVEL": "error", "NARRATIVE_DATA_DIR": str(folder)}
    environment |= {f"NARRATIVE_{name.upper()}__PORT": str(port) for name, port in ports.items()}
    environment |= {
        "NARRATIVE_ASR__ENGINE": "fake",
        "NARRATIVE_ASR__FAKE_SERVICE_S": "0.3",
        "NARRATIVE_PROMPT__ENGINE": "fake",
        "NARRATIVE_DIFFUSION__ENGINE": "fake",
        "NARRATIVE_DIFFUSION__FAKE_BATCH_S": "0.3",
    }
    started = [
        await asyncio.create_subprocess_exec(sys.executable, "-m", f"services.{name}", env=environment)
        for name in ports
    ]
    try:
        yield started
    finally:
        for one in started:
            if one.returncode is None:
                one.kill()
            await one.wait()


async def test_the_pods_of_a_node_are_killed_and_no_story_is_lost(postgres: Any, tmp_path: Path) -> None:
    ports = {name: free_port() for name in ("asr", "prompt", "diffusion")}
    script = Script(delay_s={"asr": 0.3, "prompt": 0.1, "diffusion": 0.3})
    async with ensemble(script) as here, contextlib.AsyncExitStack() as stack:
        # Every service has a replica on each of two nodes; this process is what runs on the one that stays.
        both = {
            f"NARRATIVE_GATEWAY__{name.upper()}_TARGET": f"ipv4:127.0.0.1:{here.ports[name]},127.0.0.1:{ports[name]}"
            for name in ports
        }
        running = await stack.enter_async_context(gateways(script, tmp_path, postgres.get_uri(), both))
        lost = await stack.enter_async_context(pods(ports, tmp_path / "node"))
        await asyncio.gather(*(until_ready(port) for port in ports.values()))
        before = [await running.story(f"before-{number}") for number in range(8)]
        while not script.calls["diffusion"]:
            await asyncio.sleep(0.02)

        for one in [running.processes[1], *lost]:
            one.kill()
        await asyncio.gather(*(one.wait() for one in [running.processes[1], *lost]))
        meanwhile = [await running.story(f"meanwhile-{number}") for number in range(4)]
        # The StatefulSet brings its gateway back under its name; the services come back later, or elsewhere.
        await running.start(1)
        stories = await finished(running)

        assert {one["id"] for one in stories} == {*before, *meanwhile}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.ports[0]}", timeout=30) as http:
            for one in stories:
                story = (await http.get(one["links"]["story"])).json()
                assert story["speakers"]
                for image in (image for speaker in story["speakers"] for image in speaker["images"]):
                    assert (await http.get(image["url"])).content.startswith(b"\x89PNG")


async def until_ready(port: int) -> None:
    """Returns when the service at a port is ready to work."""
    async with asyncio.timeout(60), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = None
        while answer is None or answer.status != health_pb2.HealthCheckResponse.SERVING:
            with contextlib.suppress(grpc.RpcError):
                answer = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=5
                )


async def test_a_service_whose_image_is_wrong(tmp_path: Path) -> None:
    async with ensemble() as fakes:
        port = fakes.ports["diffusion"]
        await fakes.stop("diffusion")
        environment = environment_of(fakes, tmp_path, f"sqlite:///{tmp_path / 'narratives.db'}")
        at = free_port()
        async with process(environment, at), httpx.AsyncClient(base_url=f"http://127.0.0.1:{at}", timeout=30) as http:
            wrong = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.diffusion", env={**os.environ, "NARRATIVE_DIFFUSION__MODLES": '["x"]'},
                stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            said = (await wrong.communicate())[1].decode()
            ready = await http.get("/readyz")
            accepted = await http.post("/v1/narratives", files={"file": ("talk.flac", RECORDING)})
            other = await http.post("/v1/audio/transcriptions", files={"file": ("talk.flac", RECORDING)})

            assert wrong.returncode == 2
            assert "did you mean NARRATIVE_DIFFUSION__MODELS" in said
            assert "Traceback" not in said
            assert ready.status_code == 503
            assert set(ready.json()["missing"]) == {"diffusion"}
            assert other.status_code == 200
            assert accepted.status_code == 202

            async with pods({"diffusion": port}, tmp_path / "node"), asyncio.timeout(60):
                while (state := (await http.get(accepted.json()["links"]["self"])).json())["status"] != "succeeded":
                    assert state["status"] in ("queued", "running"), state
                    await asyncio.sleep(0.05)
                assert (await http.get("/readyz")).status_code == 200
