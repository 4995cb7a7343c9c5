"""Protobuf in and out of the coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc

from narrative.errors import InvalidParameter
from narrative.v1 import residency_pb2, residency_pb2_grpc
from services.residency.coordinator import Coordinator, Session
from services.residency.settings import ResidencySettings
from services.residency.state import Claim, Decision, Granted, Offload, Prefetch, Refused, Snapshot

_REASONS = {
    "too-large": residency_pb2.REFUSAL_REASON_TOO_LARGE,
    "expired": residency_pb2.REFUSAL_REASON_EXPIRED,
    "no-such-device": residency_pb2.REFUSAL_REASON_NO_SUCH_DEVICE,
}


class ResidencyServicer(residency_pb2_grpc.ResidencyServiceServicer):
    """Serves one coordinator."""

    def __init__(self, coordinator: Coordinator, settings: ResidencySettings) -> None:
        self._coordinator = coordinator
        self._welcome = residency_pb2.Welcome(heartbeat_s=settings.heartbeat_s, grace_s=settings.grace_s)

    async def Attach(
        self,
        request_iterator: AsyncIterator[residency_pb2.AttachRequest],
        context: grpc.aio.ServicerContext[residency_pb2.AttachRequest, residency_pb2.AttachResponse],
    ) -> AsyncIterator[residency_pb2.AttachResponse]:
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("hello") or not first.hello.owner_id:
            raise InvalidParameter("the first message is a hello with an owner_id", field="hello")
        hello = first.hello
        session = self._coordinator.attach(hello.owner_id, hello.name, [_claim(claim) for claim in hello.models])
        reading = asyncio.create_task(self._read(request_iterator, session))
        try:
            yield residency_pb2.AttachResponse(welcome=self._welcome)
            while (decision := await session.decisions.get()) is not None:
                yield _response(decision)
            if reading.done() and not reading.cancelled():
                reading.result()
        finally:
            reading.cancel()
            self._coordinator.detach(session, is_gone=session.said_goodbye)

    async def Prefetch(
        self,
        request: residency_pb2.PrefetchRequest,
        context: grpc.aio.ServicerContext[residency_pb2.PrefetchRequest, residency_pb2.PrefetchResponse],
    ) -> residency_pb2.PrefetchResponse:
        if not request.model:
            raise InvalidParameter("say which model", field="model")
        self._coordinator.prefetch(request.model, request.wait_s)
        return residency_pb2.PrefetchResponse()

    async def GetState(
        self,
        request: residency_pb2.GetStateRequest,
        context: grpc.aio.ServicerContext[residency_pb2.GetStateRequest, residency_pb2.GetStateResponse],
    ) -> residency_pb2.GetStateResponse:
        return _state(self._coordinator.snapshot())

    async def _read(self, messages: AsyncIterator[residency_pb2.AttachRequest], session: Session) -> None:
        try:
            async for message in messages:
                if message.HasField("goodbye"):
                    session.said_goodbye = True
                    return
                self._coordinator.carry_out(self._apply(message, session.owner))
        finally:
            session.decisions.put_nowait(None)

    def _apply(self, message: residency_pb2.AttachRequest, owner: str) -> list[Decision]:
        ledger = self._coordinator.ledger
        match message.WhichOneof("payload"):
            case "acquire":
                asked = message.acquire
                if not asked.lease_id or not asked.model or asked.num_bytes == 0:
                    raise InvalidParameter("an acquire has a lease_id, a model and num_bytes", field="acquire")
                return ledger.acquire(
                    owner,
                    asked.lease_id,
                    asked.model,
                    asked.num_bytes,
                    wait_s=asked.wait_s,
                    device=asked.device,
                    priority=asked.priority,
                )
            case "release":
                return ledger.release(owner, message.release.lease_id, is_resident=message.release.is_resident)
            case "offloaded":
                return ledger.offloaded(owner, message.offloaded.model, is_removed=message.offloaded.is_removed)
            case "heartbeat":
                ledger.seen(owner)
                return []
            case _:
                raise InvalidParameter("only the first message is a hello, and none is empty", field="hello")


def _claim(message: residency_pb2.Claim) -> Claim:
    return Claim(message.model, message.num_bytes, message.device, tuple(message.lease_ids), message.only)


def _response(decision: Decision) -> residency_pb2.AttachResponse:
    match decision:
        case Granted():
            granted = residency_pb2.Granted(lease_id=decision.lease_id, device=decision.device)
            return residency_pb2.AttachResponse(granted=granted)
        case Refused():
            refused = residency_pb2.Refused(
                lease_id=decision.lease_id, reason=_REASONS[decision.reason], missing_bytes=decision.missing_bytes
            )
            return residency_pb2.AttachResponse(refused=refused)
        case Offload():
            return residency_pb2.AttachResponse(offload=residency_pb2.Offload(model=decision.model))
        case Prefetch():
            load = residency_pb2.Load(lease_id=decision.lease_id, model=decision.model, device=decision.device)
            return residency_pb2.AttachResponse(load=load)
        case _:
            raise AssertionError(f"not for an owner: {decision}")


def _state(snapshot: Snapshot) -> residency_pb2.GetStateResponse:
    names = {owner.id: owner.name for owner in snapshot.owners.values()}
    devices = [
        residency_pb2.Device(
            id=device.id,
            name=device.name,
            total_bytes=device.total_bytes,
            budget_bytes=device.budget_bytes,
            booked_bytes=snapshot.booked_bytes(device.id),
        )
        for device in snapshot.devices
    ]
    models = [
        residency_pb2.ResidentModel(
            model=model.key.model,
            owner=names.get(model.key.owner, model.key.owner),
            num_bytes=model.num_bytes,
            device=model.device,
            leases=len(model.leases),
            is_pinned=model.key.model in snapshot.pinned,
            is_leaving=model.is_leaving,
            idle_s=0.0 if model.leases or not model.used_s else snapshot.now_s - model.used_s,
        )
        for model in snapshot.models
    ]
    waiting = [
        residency_pb2.WaitingRequest(
            model=request.key.model,
            owner=names.get(request.key.owner, request.key.owner),
            num_bytes=request.num_bytes,
            waited_s=snapshot.now_s - request.arrived_s,
        )
        for request in snapshot.waiting
        if not request.is_prefetch
    ]
    return residency_pb2.GetStateResponse(devices=devices, models=models, waiting=waiting)
