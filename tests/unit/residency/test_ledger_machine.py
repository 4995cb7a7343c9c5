"""Owners that ask, work, hang, vanish and come back in any order: the ledger's invariants hold after every step."""

import itertools
from collections.abc import Iterable

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.residency.ledger import Ledger
from services.residency.state import Claim, Decision, Device, Disconnect, Granted, Offload, Prefetch, Refused, Rules

RULES = Rules(recovery_s=1.0)
OWNERS = ("a", "b", "c")
SIZES = {"small": 20, "middle": 45, "large": 70, "huge": 100, "too large": 130}
BUDGETS = {"host:0": 100, "host:1": 80}
WAIT_S = 30.0
MODELS = st.sampled_from(sorted(SIZES))
HOSTS = st.sampled_from(["", *BUDGETS])


class Residency(RuleBasedStateMachine):
    """Each owner's own view of what it holds is kept beside the ledger's, and both must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.ids = itertools.count()
        self.start()
        self.waiting: dict[str, tuple[str, float]] = {}
        self.leases: dict[str, tuple[str, str]] = {}
        self.leaving: set[tuple[str, str]] = set()
        self.attached: set[str] = set()
        for owner in OWNERS:
            self.attach(owner)

    def start(self) -> None:
        devices = [Device(name, name, size, size) for name, size in BUDGETS.items()]
        self.ledger = Ledger(devices, lambda: self.now_s, RULES, pinned=["small"])

    def attach(self, owner: str, claims: Iterable[Claim] = ()) -> None:
        self.attached.add(owner)
        self.handle(self.ledger.attach(owner, owner, list(claims)))

    def handle(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Granted | Prefetch):
                key = (decision.owner, decision.model)
                assert key not in self.leaving, "a lease on a model that is leaving"
                if isinstance(decision, Granted):
                    owner, _ = self.waiting.pop(decision.lease_id)
                    assert owner == decision.owner
                self.leases[decision.lease_id] = key
                if isinstance(decision, Prefetch) or not decision.is_resident:
                    booked = self.ledger.snapshot().booked_bytes(decision.device)
                    assert booked <= self.budget(decision.device), "granted beyond the budget"
            elif isinstance(decision, Refused):
                self.waiting.pop(decision.lease_id)
                assert decision.reason != "too-large" or decision.missing_bytes > 0
            elif isinstance(decision, Offload):
                key = (decision.owner, decision.model)
                assert key not in self.leases.values(), "sent away while in use"
                self.leaving.add(key)
            elif isinstance(decision, Disconnect):
                self.lose(decision.owner)

    def budget(self, device: str) -> int:
        return next(one.budget_bytes for one in self.ledger.snapshot().devices if one.id == device)

    def lose(self, owner: str) -> None:
        self.attached.discard(owner)
        self.waiting = {lease: item for lease, item in self.waiting.items() if item[0] != owner}

    def die(self, owner: str) -> None:
        self.lose(owner)
        self.leases = {lease: key for lease, key in self.leases.items() if key[0] != owner}
        self.leaving = {key for key in self.leaving if key[0] != owner}

    @rule(owner=st.sampled_from(OWNERS), model=MODELS, device=HOSTS, priority=st.integers(-1, 2))
    def acquire(self, owner: str, model: str, device: str, priority: int) -> None:
        if owner in self.attached:
            lease = f"lease-{next(self.ids)}"
            self.waiting[lease] = (owner, self.now_s + WAIT_S)
            self.handle(
                self.ledger.acquire(owner, lease, model, SIZES[model], wait_s=WAIT_S, device=device, priority=priority)
            )

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), loaded=st.booleans())
    def release(self, data: st.DataObject, loaded: bool) -> None:
        lease = data.draw(st.sampled_from(sorted(self.leases)))
        owner, _ = self.leases[lease]
        if owner in self.attached:
            del self.leases[lease]
            self.handle(self.ledger.release(owner, lease, is_resident=loaded))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted(self.waiting)))
        owner, _ = self.waiting.pop(lease)
        self.handle(self.ledger.release(owner, lease))

    @precondition(lambda self: self.leaving)
    @rule(data=st.data())
    def offloaded(self, data: st.DataObject) -> None:
        owner, model = data.draw(st.sampled_from(sorted(self.leaving)))
        if owner in self.attached:
            self.leaving.discard((owner, model))
            self.handle(self.ledger.offloaded(owner, model))

    @rule(model=MODELS)
    def prefetch(self, model: str) -> None:
        self.handle(self.ledger.prefetch(model, wait_s=5.0))

    @rule(seconds=st.sampled_from([0.05, 0.5, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        for owner in self.attached:
            self.ledger.seen(owner)
        self.handle(self.ledger.tick())
        self.bury()

    def bury(self) -> None:
        known = self.ledger.snapshot().owners
        for owner in OWNERS:
            if owner not in known:
                self.die(owner)

    @rule(owner=st.sampled_from(OWNERS))
    def connection_breaks(self, owner: str) -> None:
        if owner in self.attached:
            self.lose(owner)
            self.handle(self.ledger.detach(owner, is_gone=False))

    @rule(owner=st.sampled_from(OWNERS))
    def leaves(self, owner: str) -> None:
        if owner in self.attached:
            self.die(owner)
            self.handle(self.ledger.detach(owner, is_gone=True))

    @rule(owner=st.sampled_from(OWNERS))
    def comes_back(self, owner: str) -> None:
        if owner not in self.attached:
            self.claim_all(owner)

    def claim_all(self, owner: str) -> None:
        claims = []
        for model in self.ledger.snapshot().models:
            if model.key.owner == owner:
                leases = tuple(lease for lease, key in self.leases.items() if key == model.key)
                claims.append(Claim(model.key.model, model.num_bytes, model.device, leases))
                self.leaving.discard(model.key)
        self.attach(owner, claims)

    @rule()
    def residency_restarts(self) -> None:
        before = self.ledger.snapshot()
        self.start()
        for device in before.devices:
            self.ledger.set_budget(device.id, device.budget_bytes)
        self.waiting.clear()
        self.leaving.clear()
        for owner in sorted(self.attached):
            claims = [
                Claim(
                    model.key.model,
                    model.num_bytes,
                    model.device,
                    tuple(lease for lease, key in self.leases.items() if key == model.key),
                )
                for model in before.models
                if model.key.owner == owner
            ]
            self.attach(owner, claims)
        self.bury()

    @rule(device=st.sampled_from(sorted(BUDGETS)), share=st.sampled_from([0.5, 1.0]))
    def stranger_takes_memory(self, device: str, share: float) -> None:
        self.handle(self.ledger.set_budget(device, int(BUDGETS[device] * share)))

    @invariant()
    def leases_agree(self) -> None:
        theirs = {lease: model.key for model in self.ledger.snapshot().models for lease in model.leases}
        assert theirs == self.leases

    @invariant()
    def nobody_is_forgotten(self) -> None:
        asked = {request.lease_id for request in self.ledger.snapshot().waiting if not request.is_prefetch}
        assert asked == set(self.waiting)

    @invariant()
    def nobody_waits_beyond_the_deadline(self) -> None:
        assert all(deadline_s + 3.0 >= self.now_s for _, deadline_s in self.waiting.values())

    @invariant()
    def in_use_is_on_a_device_and_not_leaving(self) -> None:
        for model in self.ledger.snapshot().models:
            assert not model.leases or (model.device and not model.is_leaving)

    def teardown(self) -> None:
        """No deadlock: when everybody does what he is asked, everything that can fit is served before its deadline."""
        for device, budget in BUDGETS.items():
            self.handle(self.ledger.set_budget(device, budget))
        self.now_s += RULES.recovery_s
        for owner in OWNERS:
            if owner not in self.attached:
                self.claim_all(owner)
        fresh = {lease for lease, (_, deadline_s) in self.waiting.items() if deadline_s - self.now_s > 22}
        for _ in range(200):
            served = fresh - set(self.waiting)
            if served == fresh and not self.leases and not self.leaving:
                return
            for lease in sorted(self.leases):
                owner, _model = self.leases.pop(lease)
                self.handle(self.ledger.release(owner, lease))
            for owner, model in sorted(self.leaving):
                self.leaving.discard((owner, model))
                self.handle(self.ledger.offloaded(owner, model))
            self.time_passes(0.1)
        raise AssertionError(f"still waiting: {fresh & set(self.waiting)}")


TestResidency = Residency.TestCase
# The same examples every time, and no shrinking, which takes minutes here: raise max_examples to look for more.
TestResidency.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True, phases=(Phase.generate,)
)
