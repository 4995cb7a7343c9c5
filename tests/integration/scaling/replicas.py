"""Diffusion replicas as a cluster would run them: processes on addresses of their own, behind a name that changes.

The engine is the fake with a fixed time for a picture; everything else is what runs in production: the process, its
gRPC server and its drain, the gateway's client, its channel, and DNS, which here is a small server of our own.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.clients import Drawn, Services
from gateway.patience import patiently
from gateway.settings import GatewaySettings
from narrative.errors import NarrativeError
from narrative.v1 import diffusion_pb2

NAME = "diffusion.narrative.test"
_A, _IN = 1, 1
_START_S = 60.0
_FINISHED = re.compile(r'narrative_requests_total\{code="OK",method="GenerateImages",service="diffusion"\} (\S+)')


class Names(asyncio.DatagramProtocol):
    """A DNS server that knows one name; ``addresses`` may change at any time."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.index(b"\0", 12) + 5
        question = data[12:end]
        kind, _ = struct.unpack("!HH", question[-4:])
        labels, rest = [], question[:-5]
        while rest:
            labels.append(rest[1 : 1 + rest[0]].decode())
            rest = rest[1 + rest[0] :]
        known = ".".join(labels).lower() == NAME
        found = self.addresses if known and kind == _A else []
        header = data[:2] + struct.pack("!HHHHH", 0x8580 if known else 0x8583, 1, len(found), 0, 0)
        answers = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", _A, _IN, 0, 4) + socket.inet_aton(address) for address in found
        )
        assert self._transport is not None
        self._transport.sendto(header + question + answers, addr)


@dataclass
class Replica:
    """One process of the diffusion service."""

    address: str
    port: int
    process: asyncio.subprocess.Process

    async def ready(self) -> None:
        """Returns when its health is SERVING."""
        async with asyncio.timeout(_START_S), grpc.aio.insecure_channel(f"{self.address}:{self.port}") as channel:
            answer = None
            while answer is None or answer.status != health_pb2.HealthCheckResponse.SERVING:
                assert self.process.returncode is None
                try:
                    answer = await health_pb2_grpc.HealthStub(channel).Check(
                        health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=5
                    )
                except grpc.RpcError:
                    await asyncio.sleep(0.05)

    async def finished_calls(self) -> int:
        """GenerateImages calls that it ended well."""
        async with httpx.AsyncClient() as http:
            text = (await http.get(f"http://{self.address}:{self.port + 1}/metrics")).text
        found = _FINISHED.search(text)
        return int(float(found[1])) if found else 0


@dataclass
class Cluster:
    """Replicas, their name, and the gateway's client of them."""

    names: Names
    services: Services
    port: int
    picture_s: float
    folder: str
    replicas: list[Replica] = field(default_factory=list)
    started: int = 0

    async def add(self, count: int) -> list[Replica]:
        """Starts replicas and, when they are ready, gives them the name, as a headless Service does."""
        added = [await self._start() for _ in range(count)]
        await asyncio.gather(*(replica.ready() for replica in added))
        self.replicas += added
        self._publish()
        return added

    async def drain(self, replica: Replica) -> None:
        """Takes a replica away politely; returns when it has ended."""
        self.replicas.remove(replica)
        self._publish()
        replica.process.terminate()
        assert await replica.process.wait() == 0

    async def kill(self, replica: Replica) -> None:
        """Kills a replica; its address stays in DNS until this has returned."""
        replica.process.kill()
        await replica.process.wait()
        self.replicas.remove(replica)
        self._publish()

    async def draw(self, seed: int) -> Drawn:
        """One picture, asked for as the gateway asks."""
        request = diffusion_pb2.GenerateImagesRequest(prompt="a boat", seed=seed, num_images=1)

        async def attempt() -> Drawn:
            (picture,) = [event async for event in self.services.generate(request) if isinstance(event, Drawn)]
            return picture

        async def on_wait(error: NarrativeError) -> None:
            """Nobody has to be told."""

        return await patiently(attempt, 30.0, on_wait)

    async def throughput(self, pictures: int, in_flight: int) -> float:
        """Pictures a second with so many asked for at the same time."""
        seeds = iter(range(pictures))

        async def client() -> None:
            for seed in seeds:
                await self.draw(seed)

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(in_flight)))
        return pictures / (time.perf_counter() - started)

    async def _start(self) -> Replica:
        self.started += 1
        address = f"127.0.7.{self.started}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NARRATIVE_")}
        environment |= {
            "NARRATIVE_LOG_LEVEL": "error",
            "NARRATIVE_DATA_DIR": self.folder,
            "NARRATIVE_DIFFUSION__ENGINE": "fake",
            "NARRATIVE_DIFFUSION__FAKE_BATCH_S": str(self.picture_s),
            "NARRATIVE_DIFFUSION__MAX_BATCH_SIZE": "1",
            "NARRATIVE_DIFFUSION__BATCH_WINDOW_MS": "0",
            "NARRATIVE_DIFFUSION__HOST": address,
            "NARRATIVE_DIFFUSION__PORT": str(self.port),
            "NARRATIVE_DIFFUSION__METRICS_PORT": str(self.port + 1),
            "NARRATIVE_DIFFUSION__MAX_CONNECTION_AGE_S": "2",
            "NARRATIVE_DIFFUSION__DRAIN_S": "10",
        }
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.diffusion", env=environment)
        return Replica(address, self.port, process)

    def _publish(self) -> None:
        self.names.addresses = [replica.address for replica in self.replicas]


@asynccontextmanager
async def cluster(picture_s: float, port: int = 57054) -> AsyncIterator[Cluster]:
    """A cluster without replicas; all that were added are ended with it."""
    loop = asyncio.get_running_loop()
    transport, names = await loop.create_datagram_endpoint(Names, local_addr=("127.0.0.1", 0))
    dns_port = transport.get_extra_info("sockname")[1]
    target = f"dns://127.0.0.1:{dns_port}/{NAME}:{port}"
    services = Services(GatewaySettings(diffusion_target=target))
    with tempfile.TemporaryDirectory() as folder:
        running = Cluster(names, services, port, picture_s, folder)
        try:
            yield running
        finally:
            await services.close()
            for replica in running.replicas:
                replica.process.kill()
                await replica.process.wait()
            transport.close()
