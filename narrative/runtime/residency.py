"""The owner's side of residency: an engine takes a lease on a model before it works, and its memory is there.

``ResidencyClient`` keeps one connection to the residency service of the machine. It loads a model when a lease finds it
away, sends it away when the service asks for that, and comes back by itself, with everything it holds, when the service
was restarted. Without a residency service an engine makes no client at all.
"""

import contextlib
import queue
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import structlog

from narrative.errors import (
    Cancelled,
    InvalidParameter,
    ModelNotFound,
    NarrativeError,
    OutOfMemory,
    ResourceExhausted,
    ServiceUnavailable,
)
from narrative.v1 import residency_pb2, residency_pb2_grpc

log = structlog.get_logger()
_LOOK_S = 0.25
_RECONNECT_S = 0.2
_CLOSE_S = 30.0
_RETRY_S = 1.0
_MOVERS = 4
_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1_000)]


class Movable(Protocol):
    """A model whose weights can be brought to a device and sent away; called by one thread at a time."""

    def load(self, device: str) -> None:
        """Brings the weights to a device such as "cuda:0" or "host:0"; where loading fails they are nowhere.

        Raises:
            OutOfMemory: there is no room, whatever the ledger says.
        """

    def offload(self) -> None:
        """Sends the weights away and gives the device's memory back."""


@dataclass
class _Owned:
    """A model of this process.

    Attributes:
        device: where it is; empty where it is away.
        assigned: where its last lease says that it is or will be.
        moving: held while it is loaded or sent away.
        only: the one device it can go to; empty for any.
    """

    num_bytes: int
    movable: Movable
    only: str = ""
    device: str = ""
    assigned: str = ""
    leases: set[str] = field(default_factory=set)
    moving: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class _Asked:
    """A request on its way; ``device`` or ``refused`` is its answer."""

    model: str
    priority: int
    deadline_s: float
    device: str = ""
    refused: residency_pb2.Refused | None = None


class ResidencyClient:
    """Leases for the models of one process; safe to use from many threads.

    Args:
        target: gRPC name of the residency service, for example "127.0.0.1:50055".
        name: name of this process for people, for example "diffusion".
        wait_s: longest that a lease is waited for.
    """

    def __init__(self, target: str, name: str, wait_s: float) -> None:
        self._target = target
        self._name = name
        self._wait_s = wait_s
        self._owner_id = f"{name}-{uuid.uuid4().hex[:8]}"
        self._owned: dict[str, _Owned] = {}
        self._asked: dict[str, _Asked] = {}
        self._changed = threading.Condition()
        self._outgoing: queue.SimpleQueue[residency_pb2.AttachRequest | None] | None = None
        self._heartbeat_s = 1.0
        self._closing = threading.Event()
        self._mover = ThreadPoolExecutor(_MOVERS, thread_name_prefix="residency-mover")
        self._thread = threading.Thread(target=self._stay_connected, name="residency", daemon=True)

    def add(self, model: str, num_bytes: int, movable: Movable, *, only: str = "") -> None:
        """Declares a model that is away.

        Args:
            num_bytes: what it needs at work, working memory included.
            only: the one device it can go to; empty for any.
        """
        with self._changed:
            self._owned[model] = _Owned(num_bytes, movable, only)

    def remove(self, model: str) -> None:
        """Sends a model away for good, once nobody works with it any more."""
        with self._changed:
            owned = self._owned[model]
            self._changed.wait_for(lambda: not owned.leases)
            del self._owned[model]
        with owned.moving:
            if owned.device:
                owned.movable.offload()
        with self._changed:
            self._send(residency_pb2.AttachRequest(offloaded=residency_pb2.Offloaded(model=model)))

    def start(self) -> None:
        """Connects, and keeps the connection until ``close``."""
        self._thread.start()

    def close(self) -> None:
        """Refuses new leases, lets the work under way end, and says good-bye: all this process held is free."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: not any(owned.leases for owned in self._owned.values()), timeout=_CLOSE_S)
            if self._outgoing is not None:
                self._outgoing.put(residency_pb2.AttachRequest(goodbye=residency_pb2.Goodbye()))
                self._outgoing.put(None)
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        self._mover.shutdown(wait=True, cancel_futures=True)

    @contextlib.contextmanager
    def lease(self, model: str, *, priority: int = 0, cancelled: threading.Event | None = None) -> Iterator[str]:
        """Holds a model on a device while the block runs, and gives the device's name.

        Args:
            model: a model that was added.
            priority: higher goes first.
            cancelled: where it is set, waiting ends.

        Raises:
            OutOfMemory: the model can never fit, or its device had no room although the ledger had.
            ResourceExhausted: no room within ``wait_s``, or the residency service did not answer for so long.
            Cancelled: ``cancelled`` was set while it waited.
            ModelNotFound: the model was removed.
            ServiceUnavailable: closed.
        """
        owned = self._find(model)
        lease_id = uuid.uuid4().hex
        asked = _Asked(model, priority, time.monotonic() + self._wait_s)
        try:
            with self._changed:
                self._asked[lease_id] = asked
                self._send(self._acquire(lease_id, asked))
                self._wait_for(asked, cancelled)
                # The lease is on this side's books before it is off the list of requests: a reconnection in between
                # claims it.
                owned.leases.add(lease_id)
                owned.assigned = asked.device
                del self._asked[lease_id]
            self._bring(model, owned, asked.device)
            yield asked.device
        finally:
            with self._changed:
                self._asked.pop(lease_id, None)
                owned.leases.discard(lease_id)
                release = residency_pb2.Release(lease_id=lease_id, is_resident=bool(owned.device))
                self._send(residency_pb2.AttachRequest(release=release))
                self._changed.notify_all()

    def _find(self, model: str) -> _Owned:
        with self._changed:
            if model not in self._owned:
                raise ModelNotFound(f"{model} was taken away", field="model")
            return self._owned[model]

    def _wait_for(self, asked: _Asked, cancelled: threading.Event | None) -> None:
        while not asked.device and asked.refused is None:
            if asked.model not in self._owned:
                raise ModelNotFound(f"{asked.model} was taken away", field="model")
            left_s = asked.deadline_s - time.monotonic()
            if cancelled is not None and cancelled.is_set():
                raise Cancelled("the caller gave up while the model waited for memory")
            if self._closing.is_set():
                raise ServiceUnavailable(f"the {self._name} service is stopping", retry_after_s=2.0)
            # The service's own refusal says more, so it gets a moment longer.
            if left_s < -1.0:
                where = "is busy" if self._outgoing is not None else f"does not answer at {self._target}"
                raise ResourceExhausted(f"{asked.model} got no memory: residency {where}", retry_after_s=5.0)
            self._changed.wait(_LOOK_S)
        if asked.refused is not None:
            raise _refusal(asked.model, asked.refused, self._wait_s)

    def _bring(self, model: str, owned: _Owned, device: str) -> None:
        """Loads the model unless it is there; a second lease on it waits until the first one has loaded it."""
        with owned.moving:
            if owned.device == device:
                return
            started_s = time.monotonic()
            if owned.device:
                owned.movable.offload()
                owned.device = ""
            owned.movable.load(device)
            owned.device = device
            log.info("loaded", model=model, device=device, load_s=round(time.monotonic() - started_s, 3))

    def _offload(self, model: str) -> None:
        """Sends a model away, and tries again for as long as that fails: until then nobody can have its memory."""
        owned = self._find(model)
        while not self._closing.is_set():
            try:
                if not self._send_away(model, owned):
                    return
                break
            except Exception:
                log.exception("offloading failed", model=model)
                self._closing.wait(_RETRY_S)
        with self._changed:
            self._send(residency_pb2.AttachRequest(offloaded=residency_pb2.Offloaded(model=model)))

    def _send_away(self, model: str, owned: _Owned) -> bool:
        """Offloads a model; false where it is in use, for it was asked to leave over a connection that was lost."""
        with owned.moving:
            with self._changed:
                if owned.leases:
                    return False
            if owned.device:
                started_s = time.monotonic()
                owned.movable.offload()
                owned.device = ""
                log.info("offloaded", model=model, offload_s=round(time.monotonic() - started_s, 3))
            return True

    def _load_ahead(self, message: residency_pb2.Load) -> None:
        owned = self._find(message.model)
        try:
            self._bring(message.model, owned, message.device)
        finally:
            with self._changed:
                owned.leases.discard(message.lease_id)
                release = residency_pb2.Release(lease_id=message.lease_id, is_resident=bool(owned.device))
                self._send(residency_pb2.AttachRequest(release=release))
                self._changed.notify_all()

    def _send(self, message: residency_pb2.AttachRequest) -> None:
        """Sends where there is a connection; what a new one needs to know is told when it is made."""
        if self._outgoing is not None:
            self._outgoing.put(message)

    def _acquire(self, lease_id: str, asked: _Asked) -> residency_pb2.AttachRequest:
        acquire = residency_pb2.Acquire(
            lease_id=lease_id,
            model=asked.model,
            num_bytes=self._owned[asked.model].num_bytes,
            device=self._owned[asked.model].only,
            priority=asked.priority,
            wait_s=max(0.0, asked.deadline_s - time.monotonic()),
        )
        return residency_pb2.AttachRequest(acquire=acquire)

    def _stay_connected(self) -> None:
        while not self._closing.is_set():
            with grpc.insecure_channel(self._target, options=_OPTIONS) as channel:
                try:
                    grpc.channel_ready_future(channel).result(timeout=5.0)
                    self._converse(residency_pb2_grpc.ResidencyServiceStub(channel))
                except (grpc.RpcError, grpc.FutureTimeoutError) as error:
                    if not self._closing.is_set():
                        log.warning("residency is away", target=self._target, reason=_reason(error))
                # Without this thread nobody would ever get a lease again.
                except Exception:
                    log.exception("connection to residency failed")
            with self._changed:
                self._outgoing = None
            self._closing.wait(_RECONNECT_S)

    def _converse(self, stub: Any) -> None:
        outgoing: queue.SimpleQueue[residency_pb2.AttachRequest | None] = queue.SimpleQueue()
        with self._changed:
            outgoing.put(self._hello())
            for lease_id, asked in self._asked.items():
                outgoing.put(self._acquire(lease_id, asked))
            if self._closing.is_set():
                return
            self._outgoing = outgoing
        for message in stub.Attach(self._messages(outgoing)):
            self._receive(message)

    def _messages(
        self, outgoing: "queue.SimpleQueue[residency_pb2.AttachRequest | None]"
    ) -> Iterator[residency_pb2.AttachRequest]:
        """What is to be sent, and a heartbeat where there is nothing for a while."""
        while self._outgoing is outgoing or not outgoing.empty():
            try:
                message = outgoing.get(timeout=self._heartbeat_s)
            except queue.Empty:
                yield residency_pb2.AttachRequest(heartbeat=residency_pb2.Heartbeat())
                continue
            if message is None:
                return
            yield message

    def _hello(self) -> residency_pb2.AttachRequest:
        """Everything this process has; a lease that was granted to the last connection and not claimed is void."""
        for asked in self._asked.values():
            asked.device = ""
        claims: Sequence[residency_pb2.Claim] = [
            residency_pb2.Claim(
                model=name,
                num_bytes=owned.num_bytes,
                device=owned.device or (owned.assigned if owned.leases else ""),
                lease_ids=sorted(owned.leases),
            )
            for name, owned in self._owned.items()
        ]
        hello = residency_pb2.Hello(owner_id=self._owner_id, name=self._name, models=claims)
        return residency_pb2.AttachRequest(hello=hello)

    def _receive(self, message: residency_pb2.AttachResponse) -> None:
        match message.WhichOneof("payload"):
            case "welcome":
                self._heartbeat_s = message.welcome.heartbeat_s
            case "granted":
                self._answer(message.granted.lease_id, device=message.granted.device)
            case "refused":
                self._answer(message.refused.lease_id, refused=message.refused)
            case "offload":
                self._in_background(self._offload, message.offload.model)
            case "load":
                with self._changed:
                    if (owned := self._owned.get(message.load.model)) is None:
                        return
                    owned.leases.add(message.load.lease_id)
                    owned.assigned = message.load.device
                self._in_background(self._load_ahead, message.load)

    def _answer(self, lease_id: str, *, device: str = "", refused: residency_pb2.Refused | None = None) -> None:
        with self._changed:
            # One that nobody waits for any more has been released already.
            if (asked := self._asked.get(lease_id)) is not None:
                asked.device, asked.refused = device, refused
                self._changed.notify_all()

    def _in_background(self, function: Any, argument: Any) -> None:
        def work() -> None:
            try:
                function(argument)
            # Loading ahead failed: whoever needs the model will be told why.
            except Exception:
                log.exception("moving a model failed")

        with contextlib.suppress(RuntimeError):  # Closing: the good-bye frees everything anyway.
            self._mover.submit(work)


def _refusal(model: str, refused: residency_pb2.Refused, wait_s: float) -> NarrativeError:
    match refused.reason:
        case residency_pb2.REFUSAL_REASON_TOO_LARGE:
            return OutOfMemory(
                f"{model} can never fit: the largest device lacks {refused.missing_bytes} bytes for it "
                f"({refused.missing_bytes / (1 << 30):.2f} GiB); choose a smaller model or pin less"
            )
        case residency_pb2.REFUSAL_REASON_NO_SUCH_DEVICE:
            return InvalidParameter(f"{model}: no such device", field="device")
        case _:
            return ResourceExhausted(f"{model} got no memory within {wait_s:.0f} s; try again", retry_after_s=5.0)


def _reason(error: Exception) -> str:
    return str(error.details()) if isinstance(error, grpc.Call) else "it cannot be reached"
