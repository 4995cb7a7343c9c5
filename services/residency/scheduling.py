"""One pass over those who wait: who gets a lease now, and which idle models leave to make room."""

import math
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Literal

from services.residency.state import (
    Decision,
    Device,
    Granted,
    Model,
    ModelKey,
    Offload,
    Prefetch,
    Refused,
    Request,
    Rules,
)


@dataclass
class _Room:
    """Bytes of one device during a pass.

    ``free`` falls below zero where an earlier request counts on bytes that are still ``coming`` from models that leave.
    """

    free: int
    coming: int


@dataclass(frozen=True)
class _Choice:
    """A device, the bytes that must be found on it, and the models that must leave first."""

    device: str
    need: int
    victims: tuple[Model, ...] = ()


@dataclass
class Scheduler:
    """Made for one pass; nothing is kept from one to the next, so there is nothing to undo when an owner dies."""

    devices: Mapping[str, Device]
    models: Mapping[ModelKey, Model]
    rules: Rules
    now_s: float
    is_pinned: Callable[[Model], bool]
    is_attached: Callable[[str], bool]
    is_open: bool
    _rooms: dict[str, _Room] = field(init=False)
    _blocked: set[str] = field(default_factory=set, init=False)
    _decisions: list[Decision] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._rooms = {
            device.id: _Room(
                device.budget_bytes - sum(model.num_bytes for model in self._on(device.id)),
                sum(model.num_bytes for model in self._on(device.id) if model.is_leaving and not self._is_stuck(model)),
            )
            for device in self.devices.values()
        }

    def serve(self, waiting: MutableMapping[str, Request]) -> list[Decision]:
        """Serves requests in order and takes those that have ended out of ``waiting``."""
        self._shrink_to_budget()
        promised: set[ModelKey] = set()
        for request in sorted(waiting.values(), key=lambda one: one.order_s):
            model = self.models[request.key]
            missing = self._missing_bytes(request)
            if missing > 0 or (request.is_prefetch and model.device):
                del waiting[request.lease_id]
                self._refuse(request, "too-large", missing)
                continue
            choice = None if model.is_leaving or request.key in promised else self._choose(request)
            if choice is not None and (not choice.need or self._rooms[choice.device].free >= choice.need):
                del waiting[request.lease_id]
                self._grant(request, model, choice)
            elif self.now_s >= request.deadline_s:
                del waiting[request.lease_id]
                self._refuse(request, "expired")
            elif choice is None:
                if self.is_open and self._must_move(request) and self._may_leave(model):
                    self._send_away((model,))
                self._hold_back_others(request)
            else:
                self._send_away(choice.victims)
                self._rooms[choice.device].free -= choice.need
                promised.add(request.key)
        return self._decisions

    def _on(self, device: str) -> Iterable[Model]:
        return (model for model in self.models.values() if model.device == device)

    def _is_stuck(self, model: Model) -> bool:
        since_s = model.leaving_since_s
        return since_s is not None and self.now_s - since_s > self.rules.offload_timeout_s

    def _refuse(self, request: Request, reason: Literal["too-large", "expired"], missing: int = 0) -> None:
        if not request.is_prefetch:
            owner, model = request.key
            self._decisions.append(Refused(owner, request.lease_id, model, reason, max(0, missing)))

    def _missing_bytes(self, request: Request) -> int:
        """By how much the model is too large for every device it may go to, however long it waits.

        What a stranger has of a device counts as the device's: strangers leave.
        """
        shortest = math.inf
        for device in {*self._candidates(request), *self._places(request)}:
            most = self.devices[device].total_bytes - self.devices[device].reserve_bytes
            shortest = min(shortest, request.num_bytes + self._pinned_bytes(device, request.key) - most)
        return int(shortest)

    def _fits(self, device: str, request: Request) -> bool:
        """Whether the device would hold the model as it is now, if all that may leave had left."""
        budget = self.devices[device].budget_bytes
        return request.num_bytes + self._pinned_bytes(device, request.key) <= budget

    def _pinned_bytes(self, device: str, besides: ModelKey) -> int:
        return sum(model.num_bytes for model in self._on(device) if self.is_pinned(model) and model.key != besides)

    def _candidates(self, request: Request) -> list[str]:
        there = self.models[request.key].device
        return [there] if there in self.devices else self._places(request)

    def _places(self, request: Request) -> list[str]:
        """Where it may be in the end; what is pinned stays where it is."""
        model = self.models[request.key]
        if model.device and self.is_pinned(model):
            return [model.device]
        return [request.device] if request.device else list(self.devices)

    def _must_move(self, request: Request) -> bool:
        """Whether the model needs more than its device can give it now, and another device could."""
        model = self.models[request.key]
        if not model.device or model.num_bytes >= request.num_bytes or self._fits(model.device, request):
            return False
        return any(self._fits(device, request) for device in self._places(request))

    def _choose(self, request: Request) -> _Choice | None:
        """Where the model is; else where most is free; else where those that leave were used longest ago."""
        model = self.models[request.key]
        if model.device and model.num_bytes >= request.num_bytes:
            return None if model.device in self._blocked else _Choice(model.device, 0)
        if not self.is_open:
            return None
        best: tuple[tuple[float, float], _Choice] | None = None
        for device in self._candidates(request):
            if device in self._blocked:
                continue
            need = request.num_bytes - (model.num_bytes if model.device else 0)
            room = self._rooms[device]
            # What a prefetch sends away must not have been at work since it was asked for.
            unused_since_s = request.arrived_s if request.is_prefetch else self.now_s
            victims = self._victims(device, need - room.free - room.coming, model, unused_since_s)
            if victims is None:
                continue
            if room.free >= need:
                rank = (0.0, -float(room.free - need))
            else:
                rank = (1.0, max((victim.used_s for victim in victims), default=float("-inf")))
            if best is None or rank < best[0]:
                best = (rank, _Choice(device, need, victims))
        return best[1] if best else None

    def _victims(self, device: str, short: int, keep: Model, unused_since_s: float) -> tuple[Model, ...] | None:
        """Idle models that make up for ``short`` bytes, least recently used first; None where they do not suffice."""
        if short <= 0:
            return ()
        idle = sorted(
            (
                model
                for model in self._on(device)
                if model is not keep and model.used_s <= unused_since_s and self._may_leave(model)
            ),
            key=lambda model: model.used_s,
        )
        chosen: list[Model] = []
        for model in idle:
            if sum(one.num_bytes for one in chosen) >= short:
                break
            chosen.append(model)
        spare = sum(one.num_bytes for one in chosen) - short
        if spare < 0:
            return None
        # A large model at the end may have made the small ones before it needless; the more recently used stay.
        for model in reversed(chosen[:-1]):
            if model.num_bytes <= spare:
                spare -= model.num_bytes
                chosen.remove(model)
        return tuple(chosen)

    def _may_leave(self, model: Model) -> bool:
        return (
            not model.leases
            and not model.is_leaving
            and not self.is_pinned(model)
            and self.is_attached(model.key.owner)
            and self.now_s - model.came_s >= self.rules.min_resident_s
        )

    def _grant(self, request: Request, model: Model, choice: _Choice) -> None:
        was_there = bool(model.device)
        self._rooms[choice.device].free -= choice.need
        if not was_there:
            model.device, model.num_bytes, model.came_s = choice.device, request.num_bytes, self.now_s
        model.num_bytes = max(model.num_bytes, request.num_bytes)
        model.leases.add(request.lease_id)
        model.used_s = self.now_s
        owner, name = request.key
        if request.is_prefetch:
            self._decisions.append(Prefetch(owner, request.lease_id, name, choice.device))
        else:
            waited_s = self.now_s - request.arrived_s
            self._decisions.append(Granted(owner, request.lease_id, name, choice.device, was_there, waited_s))

    def _send_away(self, victims: Iterable[Model]) -> None:
        for victim in victims:
            victim.leaving_since_s = self.now_s
            self._rooms[victim.device].coming += victim.num_bytes
            self._decisions.append(Offload(victim.key.owner, victim.key.model))

    def _hold_back_others(self, request: Request) -> None:
        """Once patience has run out, the device with least in use takes no later request until this one is served."""
        if request.is_prefetch or self.now_s - request.arrived_s < self.rules.patience_s:
            return
        fitting = [
            device
            for device in self._candidates(request)
            if device not in self._blocked and (self._fits(device, request) or self._must_move(request))
        ]
        if fitting:
            self._blocked.add(min(fitting, key=self._in_use_bytes))

    def _in_use_bytes(self, device: str) -> int:
        return sum(model.num_bytes for model in self._on(device) if model.leases)

    def _shrink_to_budget(self) -> None:
        """Where more is booked than there may be, idle models leave, as many as there are."""
        for device, room in self._rooms.items():
            while room.free + room.coming < 0:
                idle = [model for model in self._on(device) if self._may_leave(model)]
                if not idle:
                    break
                self._send_away([min(idle, key=lambda model: model.used_s)])
