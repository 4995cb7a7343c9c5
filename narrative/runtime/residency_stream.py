"""The connection of one process to the residency service: a stream that lives as long as the process.

It is made again whenever it breaks, begins with what the process has to say about itself, and is never silent for long.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import structlog

from narrative.v1 import residency_pb2, residency_pb2_grpc

log = structlog.get_logger()
_RECONNECT_S = 0.2
_READY_S = 5.0
_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1_000)]

Request = residency_pb2.AttachRequest
Outgoing = queue.SimpleQueue[Request | None]


class ResidencyStream:
    """Sends and receives on a thread of its own.

    Args:
        target: gRPC name of the residency service.
        lock: held while ``greet`` is called; whoever sends holds it too, so that nothing slips in before the greeting.
        greet: the first messages of a connection, which say everything that earlier ones may not have brought.
        receive: called with every message.
    """

    def __init__(
        self,
        target: str,
        lock: threading.Condition,
        greet: Callable[[], Sequence[Request]],
        receive: Callable[[residency_pb2.AttachResponse], None],
    ) -> None:
        self._target = target
        self._lock = lock
        self._greet = greet
        self._receive = receive
        self._outgoing: Outgoing | None = None
        self._heartbeat_s = 1.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._stay_connected, name="residency", daemon=True)

    @property
    def is_connected(self) -> bool:
        """Whether messages reach the service, as far as is known."""
        return self._outgoing is not None

    def start(self) -> None:
        self._thread.start()

    def send(self, message: Request) -> None:
        """Sends where there is a connection; what a new one needs to know, its greeting tells."""
        if self._outgoing is not None:
            self._outgoing.put(message)

    def close(self) -> None:
        """Says good-bye, after which the service frees all that this process held."""
        self._closing.set()
        with self._lock:
            if self._outgoing is not None:
                self._outgoing.put(Request(goodbye=residency_pb2.Goodbye()))
                self._outgoing.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=_READY_S)

    def _stay_connected(self) -> None:
        while not self._closing.is_set():
            with grpc.insecure_channel(self._target, options=_OPTIONS) as channel:
                try:
                    grpc.channel_ready_future(channel).result(timeout=_READY_S)
                    self._converse(residency_pb2_grpc.ResidencyServiceStub(channel))
                except (grpc.RpcError, grpc.FutureTimeoutError) as error:
                    if not self._closing.is_set():
                        log.warning("residency is away", target=self._target, reason=_reason(error))
                # Without this thread nobody would ever get a lease again.
                except Exception:
                    log.exception("connection to residency failed")
            with self._lock:
                self._outgoing = None
            self._closing.wait(_RECONNECT_S)

    def _converse(self, stub: Any) -> None:
        outgoing: Outgoing = queue.SimpleQueue()
        with self._lock:
            if self._closing.is_set():
                return
            for message in self._greet():
                outgoing.put(message)
            self._outgoing = outgoing
        for answer in stub.Attach(self._messages(outgoing)):
            if answer.HasField("welcome"):
                self._heartbeat_s = answer.welcome.heartbeat_s
            else:
                self._receive(answer)

    def _messages(self, outgoing: Outgoing) -> Iterator[Request]:
        """What is to be sent, and a heartbeat where there is nothing for a while."""
        while self._outgoing is outgoing or not outgoing.empty():
            try:
                message = outgoing.get(timeout=self._heartbeat_s)
            except queue.Empty:
                yield Request(heartbeat=residency_pb2.Heartbeat())
                continue
            if message is None:
                return
            yield message


def _reason(error: Exception) -> str:
    return str(error.details()) if isinstance(error, grpc.Call) else "it cannot be reached"
