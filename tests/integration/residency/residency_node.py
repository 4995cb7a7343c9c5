"""The residency service on a real port, and owners that note what they are asked to do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from narrative.runtime.channel import open_channel
from narrative.runtime.residency import ResidencyClient
from narrative.runtime.server import ServiceServer
from narrative.v1 import residency_pb2, residency_pb2_grpc
from services.residency.__main__ import make_service
from services.residency.settings import ResidencySettings


@dataclass
class Noted:
    """A model that keeps a list of what was done to it."""

    moves: list[str] = field(default_factory=list)
    fails: Exception | None = None
    stays_once: bool = False

    def load(self, device: str) -> None:
        if self.fails is not None:
            raise self.fails
        self.moves.append(f"to {device}")

    def offload(self) -> None:
        if self.stays_once:
            self.stays_once = False
            raise RuntimeError("it does not leave yet")
        self.moves.append("away")


@dataclass
class Device:
    """Counts the bytes that models really take, and notices what must not happen."""

    budget_bytes: int
    taken_bytes: int = 0
    fullest_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class Weighed:
    """A model whose bytes are counted on a device, and that notes whether it was sent away while somebody worked."""

    device: Device
    num_bytes: int
    workers: int = 0
    disturbed: int = 0

    def load(self, device: str) -> None:
        self._take(self.num_bytes)

    def offload(self) -> None:
        self._take(-self.num_bytes)

    def work(self, change: int) -> None:
        with self.device.lock:
            self.workers += change

    def _take(self, num_bytes: int) -> None:
        with self.device.lock:
            self.disturbed += self.workers > 0
            self.device.taken_bytes += num_bytes
            self.device.fullest_bytes = max(self.device.fullest_bytes, self.device.taken_bytes)


class Node:
    """A residency service that can be stopped and started again on its port."""

    def __init__(self, settings: ResidencySettings) -> None:
        self.settings = settings
        self.clients: list[ResidencyClient] = []

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.settings.port}"

    async def start(self) -> None:
        self.server = ServiceServer(make_service(self.settings), self.settings)
        self.settings.port = await self.server.start()
        await self.server.load()

    async def stop(self) -> None:
        await self.server.stop()

    def owner(self, name: str, wait_s: float = 10.0, **models: tuple[int, Noted]) -> ResidencyClient:
        client = ResidencyClient(self.target, name, wait_s)
        for model, (num_bytes, movable) in models.items():
            client.add(model, num_bytes, movable)
        client.start()
        self.clients.append(client)
        return client

    async def state(self) -> residency_pb2.GetStateResponse:
        async with open_channel(self.target) as channel:
            stub = residency_pb2_grpc.ResidencyServiceStub(channel)
            return await stub.GetState(residency_pb2.GetStateRequest(), timeout=5)

    async def until(self, condition: Callable[[residency_pb2.GetStateResponse], bool]) -> None:
        async with asyncio.timeout(10):
            while True:
                try:
                    if condition(await self.state()):
                        return
                except grpc.RpcError:
                    pass
                await asyncio.sleep(0.02)


def hold(client: ResidencyClient, model: str, **options: object) -> str:
    """Takes a lease and gives it back."""
    with client.lease(model, **options) as device:
        return device


@dataclass
class Holding:
    """A lease held on a thread until it is told to let go."""

    client: ResidencyClient
    model: str
    held: threading.Event = field(default_factory=threading.Event)
    enough: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with self.client.lease(self.model):
            self.held.set()
            assert self.enough.wait(20)


_VICTIM = """
import sys
import threading
from narrative.runtime.residency import ResidencyClient

class Model:
    def load(self, device):
        pass

    def offload(self):
        threading.Event().wait()

client = ResidencyClient(sys.argv[1], "victim", 10)
client.add("whisper", 60, Model())
client.start()
with client.lease("whisper"):
    sys.stdin.readline()
sys.stdin.readline()
"""


def start_victim(target: str) -> subprocess.Popen[bytes]:
    """Another process that takes a lease on whisper (60 bytes) until it reads a line; its offload never ends."""
    return subprocess.Popen([sys.executable, "-c", _VICTIM, target], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
