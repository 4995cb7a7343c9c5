"""A model whose memory is under leases, and bringing it to its device."""

import threading
import time
from dataclasses import dataclass, field
from typing import Protocol

import structlog

log = structlog.get_logger()


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
class OwnedModel:
    """A model of this process.

    Attributes:
        num_bytes: what it needs at work, working memory included.
        only: the one device it can go to; empty for any.
        device: where it is; empty where it is away.
        assigned: where its last lease says that it is or will be.
        is_leaving: it was asked to leave; no work begins on it until it has left and come back.
        leases: of the work under way.
        moving: held while it is loaded or sent away.
    """

    name: str
    num_bytes: int
    movable: Movable
    only: str = ""
    device: str = ""
    assigned: str = ""
    is_leaving: bool = False
    leases: set[str] = field(default_factory=set)
    moving: threading.Lock = field(default_factory=threading.Lock)

    def bring(self) -> None:
        """Loads it where it is assigned to, unless it is there; who comes second waits for the first."""
        with self.moving:
            if self.device == self.assigned:
                return
            self.offload()
            self.device = ""
            started_s = time.monotonic()
            self.movable.load(self.assigned)
            self.device = self.assigned
            log.info("loaded", model=self.name, device=self.device, load_s=round(time.monotonic() - started_s, 3))

    def offload(self) -> None:
        """Takes it off its device, if it is on one; whoever calls holds ``moving``, and then notes that it is away."""
        if self.device:
            started_s = time.monotonic()
            self.movable.offload()
            log.info("offloaded", model=self.name, offload_s=round(time.monotonic() - started_s, 3))
