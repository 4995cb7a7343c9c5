"""The owner's side of residency: an engine takes a lease on a model before it works, and its memory is there.

``ResidencyClient`` keeps one connection to the residency service of the machine. It loads a model when a lease finds it
away, sends it away when the service asks for that, and comes back by itself, with everything it holds, when the service
was restarted. Without a residency service an engine makes no client at all.

A model's memory is the owner's until the owner says that the model has left. So work on a model that is there begins at
once: the service is told, not asked, and if it has just asked for the memory, it gets it when that work has ended.
"""

import contextlib
import itertools
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import structlog

from narrative.errors import Cancelled, ModelNotFound, ResourceExhausted, ServiceUnavailable
from narrative.runtime.residency_models import Movable, OwnedModel
from narrative.runtime.residency_refusals import refusal
from narrative.runtime.residency_stream import Request, ResidencyStream
from narrative.v1 import residency_pb2

log = structlog.get_logger()
_LOOK_S = 0.25
_CLOSE_S = 30.0
_RETRY_S = 1.0
_MOVERS = 4
# The residency service counts GPUs by PCI address, as NVML does; so shall CUDA, which reads this when it starts.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


@dataclass
class _Asked:
    """A request on its way; it is a lease once it was granted, which ``refused`` None at its end means."""

    model: str
    priority: int
    deadline_s: float
    answered: threading.Event = field(default_factory=threading.Event)
    refused: residency_pb2.Refused | None = None


class ResidencyClient:
    """Leases for the models of one process; safe to use from many threads.

    Args:
        target: gRPC name of the residency service, for example "127.0.0.1:50055".
        name: name of this process for people, for example "diffusion".
        wait_s: longest that a lease is waited for.
        priority: head start of its requests, in steps of the residency service's ``priority_s``; higher goes first.
    """

    def __init__(self, target: str, name: str, wait_s: float, priority: int = 0) -> None:
        self._target = target
        self._name = name
        self._wait_s = wait_s
        self._priority = priority
        self._owner_id = f"{name}-{uuid.uuid4().hex[:8]}"
        self._lease_numbers = itertools.count(1)
        self._owned: dict[str, OwnedModel] = {}
        self._asked: dict[str, _Asked] = {}
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._mover = ThreadPoolExecutor(_MOVERS, thread_name_prefix="residency-mover")
        self._stream = ResidencyStream(target, self._changed, self._greet, self._receive)

    def add(self, model: str, num_bytes: int, movable: Movable, *, only: str = "") -> None:
        """Declares a model that is away.

        Args:
            num_bytes: what it needs at work, working memory included.
            only: the one device it can go to; empty for any.
        """
        with self._changed:
            self._owned[model] = OwnedModel(model, num_bytes, movable, only)

    def remove(self, model: str) -> None:
        """Sends a model away for good, once nobody works with it any more."""
        with self._changed:
            owned = self._owned[model]
            self._changed.wait_for(lambda: not owned.leases)
            del self._owned[model]
        with owned.moving:
            owned.offload()
            with self._changed:
                owned.device, owned.is_leaving = "", False
                self._tell_offloaded(model, is_removed=True)

    def start(self) -> None:
        """Connects, and keeps the connection until ``close``."""
        self._stream.start()

    def close(self) -> None:
        """Refuses new leases, lets the work under way end, and says good-bye: all this process held is free."""
        self._closing.set()
        with self._changed:
            self._changed.wait_for(lambda: not any(owned.leases for owned in self._owned.values()), timeout=_CLOSE_S)
        self._stream.close()
        self._mover.shutdown(wait=True, cancel_futures=True)

    @contextlib.contextmanager
    def lease(self, model: str, *, cancelled: threading.Event | None = None) -> Iterator[str]:
        """Holds a model on a device while the block runs, and gives the device's name.

        Args:
            model: a model that was added.
            cancelled: where it is set, waiting ends.

        Raises:
            OutOfMemory: the model can never fit, or its device had no room although the ledger had.
            ResourceExhausted: no room within ``wait_s``, or the residency service did not answer for so long.
            Cancelled: ``cancelled`` was set while it waited.
            ModelNotFound: the model was removed.
            ServiceUnavailable: closed.
        """
        lease_id = f"{self._owner_id}/{next(self._lease_numbers)}"
        asked = _Asked(model, self._priority, time.monotonic() + self._wait_s)
        with self._changed:
            owned = self._find(model)
            self._stream.send(self._acquire(lease_id, asked))
            is_here = bool(owned.device) and not owned.is_leaving
            begins = is_here and self._stream.is_connected and not self._closing.is_set()
            if begins:
                owned.leases.add(lease_id)
            else:
                self._asked[lease_id] = asked
        try:
            if not begins:
                self._wait_for(asked, cancelled)
            owned.bring()
            yield owned.device
        finally:
            self._give_back(lease_id, owned)

    def _find(self, model: str) -> OwnedModel:
        if model not in self._owned:
            raise ModelNotFound(f"{model} was taken away", field="model")
        return self._owned[model]

    def _wait_for(self, asked: _Asked, cancelled: threading.Event | None) -> None:
        while not asked.answered.is_set():
            if asked.model not in self._owned:
                raise ModelNotFound(f"{asked.model} was taken away", field="model")
            if cancelled is not None and cancelled.is_set():
                raise Cancelled("the caller gave up while the model waited for memory")
            if self._closing.is_set():
                raise ServiceUnavailable(f"the {self._name} service is stopping", retry_after_s=2.0)
            # The service's own refusal says more, so it gets a moment longer.
            if asked.deadline_s - time.monotonic() < -1.0:
                why = "is busy" if self._stream.is_connected else "does not answer"
                raise ResourceExhausted(
                    f"{asked.model} got no memory: residency {why}", retry_after_s=5.0, where=self._target
                )
            asked.answered.wait(_LOOK_S)
        if asked.refused is not None:
            raise refusal(asked.model, asked.refused, self._wait_s)

    def _give_back(self, lease_id: str, owned: OwnedModel) -> None:
        """Ends a lease, or takes a request back; a model that was asked to leave meanwhile does so now."""
        with self._changed:
            self._asked.pop(lease_id, None)
            owned.leases.discard(lease_id)
            release = residency_pb2.Release(lease_id=lease_id, is_resident=bool(owned.device))
            self._stream.send(Request(release=release))
            if owned.name not in self._owned and not owned.device:
                self._tell_offloaded(owned.name, is_removed=True)
            if owned.is_leaving and not owned.leases:
                self._in_background(partial(self._offload, owned))
            self._changed.notify_all()

    def _offload(self, owned: OwnedModel) -> None:
        """Sends a model away, and tries again for as long as that fails: until then nobody can have its memory."""
        while not self._closing.is_set():
            try:
                self._send_away(owned)
                return
            except Exception:
                log.exception("offloading failed", model=owned.name)
                self._closing.wait(_RETRY_S)

    def _send_away(self, owned: OwnedModel) -> None:
        with owned.moving:
            with self._changed:
                # The last of these leases will ask again.
                if owned.leases or not owned.is_leaving:
                    return
            owned.offload()
            with self._changed:
                owned.device, owned.is_leaving = "", False
                self._tell_offloaded(owned.name)

    def _load_ahead(self, lease_id: str, owned: OwnedModel) -> None:
        try:
            owned.bring()
        finally:
            self._give_back(lease_id, owned)

    def _tell_offloaded(self, model: str, *, is_removed: bool = False) -> None:
        self._stream.send(Request(offloaded=residency_pb2.Offloaded(model=model, is_removed=is_removed)))

    def _acquire(self, lease_id: str, asked: _Asked) -> Request:
        acquire = residency_pb2.Acquire(
            lease_id=lease_id,
            model=asked.model,
            num_bytes=self._owned[asked.model].num_bytes,
            device=self._owned[asked.model].only,
            priority=asked.priority,
            wait_s=max(0.0, asked.deadline_s - time.monotonic()),
        )
        return Request(acquire=acquire)

    def _greet(self) -> list[Request]:
        """Everything this process has, and what it waits for."""
        claims = [
            residency_pb2.Claim(
                model=name,
                num_bytes=owned.num_bytes,
                device=owned.device or (owned.assigned if owned.leases else ""),
                lease_ids=sorted(owned.leases),
                only=owned.only,
            )
            for name, owned in self._owned.items()
        ]
        hello = residency_pb2.Hello(owner_id=self._owner_id, name=self._name, models=claims)
        waiting = [self._acquire(lease_id, asked) for lease_id, asked in self._asked.items()]
        return [Request(hello=hello), *waiting]

    def _receive(self, message: residency_pb2.AttachResponse) -> None:
        with self._changed:
            match message.WhichOneof("payload"):
                case "granted":
                    self._begin(message.granted)
                case "refused":
                    # Nobody waits for it where the work has begun, or ended, already.
                    if (asked := self._asked.pop(message.refused.lease_id, None)) is not None:
                        asked.refused = message.refused
                        asked.answered.set()
                case "offload":
                    if (owned := self._owned.get(message.offload.model)) is not None:
                        owned.is_leaving = True
                        self._in_background(partial(self._offload, owned))
                case "load":
                    self._bring_in(message.load)

    def _bring_in(self, load: residency_pb2.Load) -> None:
        if (owned := self._owned.get(load.model)) is None:
            self._stream.send(Request(release=residency_pb2.Release(lease_id=load.lease_id, is_resident=False)))
            self._tell_offloaded(load.model, is_removed=True)
            return
        owned.leases.add(load.lease_id)
        owned.assigned = load.device
        self._in_background(partial(self._load_ahead, load.lease_id, owned))

    def _begin(self, granted: residency_pb2.Granted) -> None:
        if (asked := self._asked.pop(granted.lease_id, None)) is not None and asked.model in self._owned:
            owned = self._owned[asked.model]
            owned.leases.add(granted.lease_id)
            owned.assigned = granted.device
            asked.answered.set()

    def _in_background(self, work: Callable[[], None]) -> None:
        def move() -> None:
            try:
                work()
            # Loading ahead failed: whoever needs the model will be told why.
            except Exception:
                log.exception("moving a model failed")

        with contextlib.suppress(RuntimeError):  # Closing: the good-bye frees everything anyway.
            self._mover.submit(move)
