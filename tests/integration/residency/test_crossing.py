"""Messages that cross on the wire: a scripted service asks for the memory just as the owner begins to work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from narrative.runtime.residency import ResidencyClient
from narrative.v1 import residency_pb2, residency_pb2_grpc
from tests.integration.residency.residency_node import Holding, Noted, hold


class Script(residency_pb2_grpc.ResidencyServiceServicer):
    """Notes what the owner sends and answers what the test puts into ``answers``."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.lease_ids: list[str] = []
        self.priorities: list[int] = []
        self.stayed: list[bool] = []
        self.changed = asyncio.Condition()
        self.answers: asyncio.Queue[residency_pb2.AttachResponse | None] = asyncio.Queue()

    async def Attach(
        self,
        request_iterator: AsyncIterator[residency_pb2.AttachRequest],
        context: grpc.aio.ServicerContext[residency_pb2.AttachRequest, residency_pb2.AttachResponse],
    ) -> AsyncIterator[residency_pb2.AttachResponse]:
        listening = asyncio.create_task(self._listen(request_iterator))
        try:
            yield residency_pb2.AttachResponse(welcome=residency_pb2.Welcome(heartbeat_s=5, grace_s=1))
            while (answer := await self.answers.get()) is not None:
                yield answer
        finally:
            listening.cancel()

    async def _listen(self, messages: AsyncIterator[residency_pb2.AttachRequest]) -> None:
        async for message in messages:
            async with self.changed:
                self.heard.append(str(message.WhichOneof("payload")))
                if message.HasField("acquire"):
                    self.lease_ids.append(message.acquire.lease_id)
                    self.priorities.append(message.acquire.priority)
                if message.HasField("release"):
                    self.stayed.append(message.release.is_resident)
                self.changed.notify_all()
        self.answers.put_nowait(None)

    async def until(self, *heard: str) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: self.heard == list(heard))

    def grant(self) -> None:
        granted = residency_pb2.Granted(lease_id=self.lease_ids[-1], device="host:0")
        self.answers.put_nowait(residency_pb2.AttachResponse(granted=granted))

    def ask_for_memory(self) -> None:
        self.answers.put_nowait(residency_pb2.AttachResponse(offload=residency_pb2.Offload(model="sdxl")))
        # Answered with a release, by which one knows that what came before has been received.
        self.bring_in("whisper")

    def bring_in(self, model: str) -> None:
        load = residency_pb2.Load(lease_id="prefetch-1", model=model, device="host:0")
        self.answers.put_nowait(residency_pb2.AttachResponse(load=load))


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    script = Script()
    server = grpc.aio.server()
    residency_pb2_grpc.add_ResidencyServiceServicer_to_server(script, server)
    script.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield script
    await server.stop(0)


async def test_work_that_has_begun_is_not_disturbed_and_none_begins_after_it(script: Script) -> None:
    sdxl = Noted()
    client = ResidencyClient(script.target, "diffusion", 10)
    client.add("sdxl", 70, sdxl)
    client.add("whisper", 20, Noted())
    client.start()
    first = asyncio.create_task(asyncio.to_thread(hold, client, "sdxl"))
    await script.until("hello", "acquire")
    script.grant()
    await first
    await script.until("hello", "acquire", "release")

    holding = Holding(client, "sdxl")
    working = asyncio.create_task(asyncio.to_thread(holding.run))
    assert await asyncio.to_thread(holding.held.wait, 10), "it is there, so nobody is waited for"
    # The service had not heard of that work yet when it asked for the memory.
    script.ask_for_memory()
    await script.until("hello", "acquire", "release", "acquire", "release")
    later = asyncio.create_task(asyncio.to_thread(hold, client, "sdxl"))
    await script.until("hello", "acquire", "release", "acquire", "release", "acquire")
    assert sdxl.moves == ["to host:0"]
    assert not later.done()

    holding.enough.set()
    await working
    await script.until("hello", "acquire", "release", "acquire", "release", "acquire", "release", "offloaded")
    assert sdxl.moves == ["to host:0", "away"]
    script.grant()
    assert await later == "host:0"
    assert sdxl.moves == ["to host:0", "away", "to host:0"]
    await asyncio.to_thread(client.close)


async def test_a_model_that_was_removed_just_now_is_not_brought_in_and_its_bytes_are_free(script: Script) -> None:
    client = ResidencyClient(script.target, "diffusion", 10)
    client.add("sdxl", 70, Noted())
    client.start()
    await script.until("hello")
    await asyncio.to_thread(client.remove, "sdxl")
    await script.until("hello", "offloaded")
    script.bring_in("sdxl")
    await script.until("hello", "offloaded", "release", "offloaded")
    assert script.stayed == [False]
    await asyncio.to_thread(client.close)


async def test_every_request_has_the_priority_of_its_service(script: Script) -> None:
    client = ResidencyClient(script.target, "diffusion", 10, priority=3)
    client.add("sdxl", 70, Noted())
    client.start()
    await script.until("hello")
    asked = asyncio.create_task(asyncio.to_thread(hold, client, "sdxl"))
    await script.until("hello", "acquire")
    script.grant()
    await asked
    assert script.priorities == [3]
    await asyncio.to_thread(client.close)
