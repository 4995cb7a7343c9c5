"""The ledger: whose weights are in the memory of which device. Pure: no thread, no socket, and the clock is handed in.

A model's bytes are booked on a device from the moment its owner gets a lease that needs them until the owner says that
the model has left, or is dead. Every method returns the decisions that follow; whoever calls hands them to the owners.

Invariants, tested in ``tests/unit/residency/test_ledger_machine.py``:

1. Never over budget: no lease is granted that would take the booked bytes of a device above its budget. (What owners
   already hold when the ledger starts is booked as it is; until that fits, nothing is added and idle models leave.)
2. Never evicted in use: no model with a lease is asked to leave, and no lease is granted on one that is leaving.
3. No lost lease: a granted lease ends by release, by its owner's attaching again without it, or with its owner, and
   by nothing else.
4. Every request ends, by a lease or a refusal, at its deadline at the latest: nobody waits for ever.
5. No starvation: a request older than ``patience_s`` keeps later ones off the device it waits for, unless a stranger
   has so much of it that the model does not fit; so it is served as soon as the leases there have ended. Order is
   arrival, less a head start in seconds for each point of priority.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence

from services.residency.scheduling import Scheduler
from services.residency.state import (
    Claim,
    Decision,
    Device,
    Disconnect,
    Model,
    ModelKey,
    Owner,
    Refused,
    Request,
    Rules,
    Snapshot,
)


class Ledger:
    """Bytes, leases and who waits.

    Args:
        devices: the devices of this machine.
        clock: seconds, never going back.
        pinned: names of models that stay once they are there.
        run: tells the prefetches of this ledger from those of one before it, which owners may still claim.
    """

    def __init__(
        self,
        devices: Iterable[Device],
        clock: Callable[[], float],
        rules: Rules,
        pinned: Iterable[str] = (),
        run: str = "0",
    ) -> None:
        self._clock = clock
        self._rules = rules
        self._devices = {device.id: device for device in devices}
        self._owners: dict[str, Owner] = {}
        self._models: dict[ModelKey, Model] = {}
        self._waiting: dict[str, Request] = {}
        self._pinned = set(pinned)
        self._opens_s = clock() + rules.recovery_s
        self._run = run
        self._prefetches = 0

    def attach(self, owner: str, name: str, claims: Sequence[Claim] = ()) -> list[Decision]:
        """Takes an owner in, or back; what it claims to hold is booked, and what it does not claim is not any more."""
        now_s = self._clock()
        known = {model.key.model: model for model in self._models.values() if model.key.owner == owner}
        self._forget(owner)
        self._owners[owner] = Owner(owner, name, now_s)
        for claim in claims:
            key = ModelKey(owner, claim.model)
            before = known.get(claim.model, Model(key, came_s=now_s, used_s=now_s))
            before.num_bytes, before.device, before.leases = claim.num_bytes, claim.device, set(claim.lease_ids)
            before.only = claim.only
            # Whether it had been asked to leave, nobody knows any more: it is asked again if need be.
            before.leaving_since_s = None
            self._models[key] = before
        return self._decide()

    def detach(self, owner: str, *, is_gone: bool) -> list[Decision]:
        """An owner's connection has ended: for good, or it may come back within ``grace_s``.

        Its requests end, for nobody could be told; its models and leases stay for as long as it may come back.
        """
        if owner not in self._owners:
            return []
        if is_gone:
            self._forget(owner)
        else:
            self._owners[owner].detached_s = self._clock()
            self._withdraw(owner)
        return self._decide()

    def seen(self, owner: str) -> None:
        """An owner gave a sign of life."""
        if owner in self._owners:
            self._owners[owner].seen_s = self._clock()

    def acquire(
        self,
        owner: str,
        lease_id: str,
        model: str,
        num_bytes: int,
        *,
        wait_s: float,
        device: str = "",
        priority: int = 0,
    ) -> list[Decision]:
        """Asks for a lease.

        Args:
            lease_id: chosen by the owner, unlike all others.
            num_bytes: what the model needs while it works: weights and working memory.
            wait_s: longest wait; 0 for now or never.
            device: where it is to go if it is on none yet; empty for anywhere.
            priority: higher goes first; each point is a head start of ``Rules.priority_s``.
        """
        now_s = self._clock()
        self.seen(owner)
        if device and device not in self._devices:
            return [Refused(owner, lease_id, model, "no-such-device")]
        order_s = now_s - priority * self._rules.priority_s
        key = ModelKey(owner, model)
        self._models.setdefault(key, Model(key, num_bytes)).only = device
        self._waiting[lease_id] = Request(lease_id, key, num_bytes, device, now_s, order_s, now_s + wait_s)
        return self._decide()

    def release(self, owner: str, lease_id: str, *, is_resident: bool = True) -> list[Decision]:
        """Ends a lease, or takes back a request; ``is_resident`` is false where the model did not get there."""
        self.seen(owner)
        self._waiting.pop(lease_id, None)
        model = next(
            (one for one in self._models.values() if lease_id in one.leases and one.key.owner == owner),
            None,
        )
        if model is not None:
            model.leases.remove(lease_id)
            model.used_s = self._clock()
            if not is_resident and not model.leases:
                model.device = ""
        return self._decide()

    def offloaded(self, owner: str, model: str, *, is_removed: bool = False) -> list[Decision]:
        """The owner says that an idle model has left, for good where it ``is_removed``."""
        self.seen(owner)
        key = ModelKey(owner, model)
        found = self._models.get(key)
        if found is not None and not found.leases:
            found.device, found.leaving_since_s = "", None
            if is_removed:
                self._forget_model(key)
        return self._decide()

    def prefetch(self, model: str, wait_s: float) -> list[Decision]:
        """Brings a model in before anybody asks for it, within ``wait_s`` or not at all.

        It takes free memory, or that of idle models which nobody has used since, and stands behind every request.
        """
        now_s = self._clock()
        asked = {request.key for request in self._waiting.values() if request.is_prefetch}
        for found in self._models.values():
            is_wanted = found.key.model == model and not found.device and found.key not in asked
            has_place = not found.only or found.only in self._devices
            if is_wanted and has_place and self._is_attached(found.key.owner):
                self._prefetches += 1
                lease_id = f"prefetch-{self._run}-{self._prefetches}"
                self._waiting[lease_id] = Request(
                    lease_id, found.key, found.num_bytes, found.only, now_s, math.inf, now_s + wait_s, is_prefetch=True
                )
        return self._decide()

    def set_budget(self, device: str, budget_bytes: int) -> list[Decision]:
        """Changes what models may fill, for example because a stranger has taken memory."""
        self._devices[device].budget_bytes = budget_bytes
        return self._decide()

    def tick(self) -> list[Decision]:
        """To be called a few times a second: owners that fell silent, deadlines, and what only time decides."""
        now_s = self._clock()
        decisions: list[Decision] = []
        for owner in list(self._owners.values()):
            if owner.detached_s is None and now_s - owner.seen_s > self._rules.owner_timeout_s:
                owner.detached_s = now_s
                self._withdraw(owner.id)
                decisions.append(Disconnect(owner.id))
            elif owner.detached_s is not None and now_s - owner.detached_s > self._rules.grace_s:
                self._forget(owner.id)
        return decisions + self._decide()

    def snapshot(self) -> Snapshot:
        """A copy of the state."""
        return Snapshot(
            tuple(copy.copy(device) for device in self._devices.values()),
            {owner.id: copy.copy(owner) for owner in self._owners.values()},
            tuple(copy.deepcopy(model) for model in self._models.values()),
            tuple(sorted(self._waiting.values(), key=lambda request: request.order_s)),
            frozenset(self._pinned),
            self._clock(),
        )

    def _decide(self) -> list[Decision]:
        now_s = self._clock()
        return self._scheduler(now_s).serve(self._waiting)

    def _scheduler(self, now_s: float) -> Scheduler:
        return Scheduler(
            self._devices,
            self._models,
            self._rules,
            now_s,
            is_pinned=lambda model: model.key.model in self._pinned,
            is_attached=self._is_attached,
            is_open=now_s >= self._opens_s,
        )

    def _is_attached(self, owner: str) -> bool:
        return owner in self._owners and self._owners[owner].detached_s is None

    def _withdraw(self, owner: str) -> None:
        for request in [one for one in self._waiting.values() if one.key.owner == owner]:
            del self._waiting[request.lease_id]

    def _forget_model(self, key: ModelKey) -> None:
        """Ends with the prefetches of it; where its owner waits for a lease on it, it is wanted after all."""
        waiting = [request for request in self._waiting.values() if request.key == key]
        if all(request.is_prefetch for request in waiting):
            for request in waiting:
                del self._waiting[request.lease_id]
            del self._models[key]

    def _forget(self, owner: str) -> None:
        self._withdraw(owner)
        self._owners.pop(owner, None)
        for key in [key for key in self._models if key.owner == owner]:
            del self._models[key]
