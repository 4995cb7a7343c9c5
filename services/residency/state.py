"""What the ledger keeps and what it says: plain data, no behaviour of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


class ModelKey(NamedTuple):
    """A model in one process: two replicas of a service own two models of one name."""

    owner: str
    model: str


@dataclass(frozen=True)
class Rules:
    """How the ledger decides; all figures in seconds.

    Attributes:
        patience_s: a request that waits longer keeps later requests off its device until it is served.
        min_resident_s: a model is not sent away sooner after it came: what comes and goes at once does no work.
        priority_s: head start that one point of priority is worth, so that no priority starves another.
        owner_timeout_s: an owner silent for so long has lost its connection.
        grace_s: an owner without a connection for so long is dead; the driver frees a dead process's memory meanwhile.
        offload_timeout_s: a model asked to leave that stays longer is no longer waited for.
        recovery_s: time after the start in which owners report what they hold, before any memory is given away.
    """

    patience_s: float = 2.0
    min_resident_s: float = 1.0
    priority_s: float = 10.0
    owner_timeout_s: float = 10.0
    grace_s: float = 2.0
    offload_timeout_s: float = 30.0
    recovery_s: float = 3.0


@dataclass(frozen=True)
class Claim:
    """What an owner says it holds when it attaches, with the leases under which it is at work on it.

    ``only`` is the one device it can go to; empty for any.
    """

    model: str
    num_bytes: int
    device: str
    lease_ids: tuple[str, ...] = ()
    only: str = ""


@dataclass(frozen=True)
class Granted:
    """The request is now a lease: the model's bytes on ``device`` are the owner's to fill.

    ``is_resident`` says that the model is there already.
    """

    owner: str
    lease_id: str
    model: str
    device: str
    is_resident: bool
    waited_s: float


@dataclass(frozen=True)
class Refused:
    """The request has ended without a lease; ``missing_bytes`` is by how much the model is too large."""

    owner: str
    lease_id: str
    model: str
    reason: Literal["too-large", "expired", "no-such-device"]
    missing_bytes: int = 0


@dataclass(frozen=True)
class Offload:
    """The owner shall send the model away and say so."""

    owner: str
    model: str


@dataclass(frozen=True)
class Prefetch:
    """The owner shall load the model under this lease, release the lease, and keep the model."""

    owner: str
    lease_id: str
    model: str
    device: str


@dataclass(frozen=True)
class Disconnect:
    """The owner was silent for too long: its connection is to be closed."""

    owner: str


Decision = Granted | Refused | Offload | Prefetch | Disconnect


@dataclass
class Device:
    """One device.

    Attributes:
        budget_bytes: what models may fill now.
        reserve_bytes: what they may never fill.
    """

    id: str
    name: str
    total_bytes: int
    budget_bytes: int
    reserve_bytes: int = 0


@dataclass
class Owner:
    """A process that owns models."""

    id: str
    name: str
    seen_s: float
    detached_s: float | None = None


@dataclass
class Model:
    """A model and where it is; ``device`` is empty where it is away, and its bytes are booked where it is not.

    ``only`` is the one device it can go to; empty for any.
    """

    key: ModelKey
    num_bytes: int = 0
    device: str = ""
    only: str = ""
    leases: set[str] = field(default_factory=set)
    came_s: float = 0.0
    used_s: float = 0.0
    leaving_since_s: float | None = None

    @property
    def is_leaving(self) -> bool:
        return self.leaving_since_s is not None


@dataclass(frozen=True)
class Request:
    """A request that waits; ``order_s`` is its arrival less the head start of its priority, infinite for a prefetch."""

    lease_id: str
    key: ModelKey
    num_bytes: int
    device: str
    arrived_s: float
    order_s: float
    deadline_s: float
    is_prefetch: bool = False


@dataclass(frozen=True)
class Snapshot:
    """A copy of everything, for people and for metrics."""

    devices: tuple[Device, ...]
    owners: Mapping[str, Owner]
    models: tuple[Model, ...]
    waiting: tuple[Request, ...]
    pinned: frozenset[str]
    now_s: float

    def booked_bytes(self, device: str) -> int:
        """Bytes of the models on a device."""
        return sum(model.num_bytes for model in self.models if model.device == device)
