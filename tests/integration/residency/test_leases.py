"""Owners and the residency service over real gRPC: turns, faults, restarts."""

from __future__ import annotations

import asyncio
import signal
import threading

import pytest

from narrative.errors import Cancelled, InvalidParameter, ModelNotFound, OutOfMemory, ResourceExhausted
from narrative.runtime.channel import open_channel, rpc_errors
from narrative.v1 import residency_pb2, residency_pb2_grpc
from tests.integration.residency.residency_node import Device, Holding, Node, Noted, Weighed, hold, start_victim


async def test_two_models_that_fit_only_alternately_take_turns(node: Node) -> None:
    whisper, sdxl = Noted(), Noted()
    asr, diffusion = node.owner("asr", whisper=(60, whisper)), node.owner("diffusion", sdxl=(70, sdxl))
    for _ in range(3):
        assert await asyncio.to_thread(hold, asr, "whisper") == "host:0"
        assert await asyncio.to_thread(hold, diffusion, "sdxl") == "host:0"
    assert whisper.moves == ["to host:0", "away"] * 3
    assert sdxl.moves == (["to host:0", "away"] * 3)[:-1]


async def test_many_clients_of_two_models_that_fit_only_alternately(node: Node) -> None:
    device = Device(budget_bytes=100)
    models = {"whisper": Weighed(device, 60), "sdxl": Weighed(device, 70)}
    clients = {
        name: node.owner(f"owner of {name}", wait_s=30, **{name: (model.num_bytes, model)})
        for name, model in models.items()
    }

    def work(number: int) -> None:
        name = ("whisper", "sdxl")[number % 2]
        for _ in range(25):
            with clients[name].lease(name):
                models[name].work(+1)
                models[name].work(-1)

    await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(12)))
    await node.until(lambda state: not state.waiting and not any(model.leases for model in state.models))
    assert device.fullest_bytes <= device.budget_bytes
    assert [model.disturbed for model in models.values()] == [0, 0]


async def test_a_model_that_stays_is_loaded_once(node: Node) -> None:
    whisper = Noted()
    asr = node.owner("asr", whisper=(60, whisper))
    for _ in range(5):
        await asyncio.to_thread(hold, asr, "whisper")
    assert whisper.moves == ["to host:0"]
    # Leases of a model that is there are told after the fact, so one may still be on its way.
    idle = [("asr", "whisper", "host:0", 0)]
    await node.until(lambda state: [(one.owner, one.model, one.device, one.leases) for one in state.models] == idle)


async def test_what_can_never_fit_is_refused_with_the_missing_bytes(node: Node) -> None:
    diffusion = node.owner("diffusion", flux=(130, Noted()))
    with pytest.raises(OutOfMemory, match="lacks 30 bytes"):
        await asyncio.to_thread(hold, diffusion, "flux")


async def test_waiting_ends_at_its_deadline_and_when_the_caller_gives_up(node: Node) -> None:
    holding = Holding(node.owner("asr", whisper=(60, Noted())), "whisper")
    worker = asyncio.create_task(asyncio.to_thread(holding.run))
    await asyncio.to_thread(holding.held.wait, 10)
    short = node.owner("diffusion", wait_s=0.3, sdxl=(70, Noted()))
    with pytest.raises(ResourceExhausted, match="no memory within"):
        await asyncio.to_thread(hold, short, "sdxl")
    given_up = threading.Event()
    given_up.set()
    with pytest.raises(Cancelled):
        await asyncio.to_thread(hold, node.owner("other", flux=(70, Noted())), "flux", cancelled=given_up)
    holding.enough.set()
    await worker
    await node.until(lambda state: not state.waiting and not any(model.leases for model in state.models))


async def test_a_model_that_fails_to_load_is_off_the_books_and_may_be_tried_again(node: Node) -> None:
    sdxl = Noted(fails=OutOfMemory("the device has no room"))
    diffusion = node.owner("diffusion", sdxl=(70, sdxl))
    with pytest.raises(OutOfMemory):
        await asyncio.to_thread(hold, diffusion, "sdxl")
    await node.until(lambda state: state.devices[0].booked_bytes == 0)
    sdxl.fails = None
    assert await asyncio.to_thread(hold, diffusion, "sdxl") == "host:0"


async def test_an_offload_that_fails_is_tried_again(node: Node) -> None:
    whisper = Noted(stays_once=True)
    await asyncio.to_thread(hold, node.owner("asr", whisper=(60, whisper)), "whisper")
    assert await asyncio.to_thread(hold, node.owner("diffusion", sdxl=(70, Noted())), "sdxl") == "host:0"
    assert whisper.moves == ["to host:0", "away"]


async def test_a_holder_that_is_killed_loses_its_lease(node: Node) -> None:
    victim = start_victim(node.target)
    try:
        await node.until(lambda state: any(model.leases for model in state.models))
        victim.send_signal(signal.SIGKILL)
        sdxl = node.owner("diffusion", sdxl=(70, Noted()))
        assert await asyncio.to_thread(hold, sdxl, "sdxl") == "host:0"
        assert {model.owner for model in (await node.state()).models} == {"diffusion"}
    finally:
        victim.kill()
        victim.communicate()


async def test_an_owner_that_dies_while_it_offloads_leaves_its_memory_to_others(node: Node) -> None:
    victim = start_victim(node.target)
    try:
        await node.until(lambda state: any(model.leases for model in state.models))
        assert victim.stdin is not None
        victim.stdin.write(b"\n")
        victim.stdin.flush()
        sdxl = asyncio.create_task(asyncio.to_thread(hold, node.owner("diffusion", sdxl=(70, Noted())), "sdxl"))
        await node.until(lambda state: any(model.is_leaving for model in state.models))
        assert not sdxl.done(), "its bytes are not free yet"
        victim.send_signal(signal.SIGKILL)
        assert await sdxl == "host:0"
        assert {model.owner for model in (await node.state()).models} == {"diffusion"}
    finally:
        victim.kill()
        victim.communicate()


async def test_a_restart_loses_no_lease_and_owners_report_what_they_hold(node: Node) -> None:
    whisper = Noted()
    holding = Holding(node.owner("asr", whisper=(60, whisper)), "whisper")
    worker = asyncio.create_task(asyncio.to_thread(holding.run))
    await asyncio.to_thread(holding.held.wait, 10)
    await node.stop()
    await node.start()
    await node.until(lambda state: any(model.leases == 1 for model in state.models))
    sdxl = asyncio.create_task(asyncio.to_thread(hold, node.owner("diffusion", sdxl=(70, Noted())), "sdxl"))
    await node.until(lambda state: len(state.waiting) == 1)
    assert whisper.moves == ["to host:0"], "in use, so it stays"
    holding.enough.set()
    assert await sdxl == "host:0"
    await worker


async def test_a_request_made_while_residency_is_away_waits_for_it(node: Node) -> None:
    asr = node.owner("asr", whisper=(60, Noted()))
    await asyncio.to_thread(hold, asr, "whisper")
    await node.stop()
    waiting = asyncio.create_task(asyncio.to_thread(hold, asr, "whisper"))
    await node.start()
    assert await waiting == "host:0"


async def test_the_next_model_is_brought_in_while_the_first_works(node: Node) -> None:
    node.settings.prefetch = {"whisper": ["sdxl"]}
    sdxl = Noted()
    node.owner("diffusion", sdxl=(30, sdxl))
    await node.until(lambda state: len(state.models) == 1)
    holding = Holding(node.owner("asr", whisper=(60, Noted())), "whisper")
    worker = asyncio.create_task(asyncio.to_thread(holding.run))
    await node.until(lambda state: [model.device for model in state.models if model.model == "sdxl"] == ["host:0"])
    await node.until(lambda state: [model.leases for model in state.models if model.model == "sdxl"] == [0])
    assert sdxl.moves == ["to host:0"]
    holding.enough.set()
    await worker


async def test_a_removed_model_is_in_no_book_and_who_waits_for_it_is_told(node: Node) -> None:
    whisper, sdxl = Noted(), Noted()
    asr = node.owner("asr", whisper=(60, whisper))
    diffusion = node.owner("diffusion", sdxl=(70, sdxl))
    await asyncio.to_thread(hold, diffusion, "sdxl")
    await asyncio.to_thread(diffusion.remove, "sdxl")
    assert sdxl.moves == ["to host:0", "away"]
    await node.until(lambda state: [model.model for model in state.models] == ["whisper"])

    diffusion.add("sdxl", 70, sdxl)
    holding = Holding(asr, "whisper")
    worker = asyncio.create_task(asyncio.to_thread(holding.run))
    await asyncio.to_thread(holding.held.wait, 10)
    waiting = asyncio.create_task(asyncio.to_thread(hold, diffusion, "sdxl"))
    await node.until(lambda state: len(state.waiting) == 1)
    await asyncio.to_thread(diffusion.remove, "sdxl")
    with pytest.raises(ModelNotFound):
        await waiting
    await node.until(lambda state: [model.model for model in state.models] == ["whisper"])
    holding.enough.set()
    await worker


async def test_bad_messages_are_refused(node: Node) -> None:
    async with open_channel(node.target) as channel:
        stub = residency_pb2_grpc.ResidencyServiceStub(channel)
        hello = residency_pb2.AttachRequest(hello=residency_pb2.Hello(owner_id="x", name="x"))
        nameless = residency_pb2.AttachRequest(hello=residency_pb2.Hello())
        empty = residency_pb2.AttachRequest(acquire=residency_pb2.Acquire())
        claim = residency_pb2.Claim(model="m", num_bytes=1, device="cuda:9")
        strange = residency_pb2.AttachRequest(hello=residency_pb2.Hello(owner_id="x", models=[claim]))
        for messages, message in (
            ([empty], "first message"),
            ([nameless], "first message"),
            ([strange], "cuda:9"),
            ([hello, hello], "only the first"),
            ([hello, empty], "has a lease_id"),
        ):
            with pytest.raises(InvalidParameter, match=message), rpc_errors("residency"):
                async for _ in stub.Attach(iter(messages), timeout=5):
                    pass
        with pytest.raises(InvalidParameter, match="which model"), rpc_errors("residency"):
            await stub.Prefetch(residency_pb2.PrefetchRequest(), timeout=5)
