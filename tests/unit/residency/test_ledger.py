"""The ledger's decisions, one at a time, on a clock that only moves when told to."""

import pytest

from services.residency.coordinator import Coordinator
from services.residency.ledger import Ledger
from services.residency.settings import ResidencySettings
from services.residency.state import Claim, Decision, Device, Disconnect, Granted, Offload, Prefetch, Refused, Rules

RULES = Rules(recovery_s=0.0, min_resident_s=0.0, patience_s=2.0, grace_s=2.0, owner_timeout_s=10.0, priority_s=10.0)


class Bench:
    """A ledger, its clock, and shorthand for what owners do."""

    def __init__(self, *budgets: int, rules: Rules = RULES, pinned: tuple[str, ...] = ()) -> None:
        self.now_s = 100.0
        devices = [Device(f"host:{index}", "", budget, budget) for index, budget in enumerate(budgets)]
        self.ledger = Ledger(devices, lambda: self.now_s, rules, pinned)
        self.ledger.attach("a", "asr")
        self.ledger.attach("d", "diffusion")

    def acquire(self, owner: str, model: str, num_bytes: int, lease: str, **options: object) -> list[Decision]:
        return self.ledger.acquire(owner, lease, model, num_bytes, **{"wait_s": 60.0, **options})

    def later(self, seconds: float) -> list[Decision]:
        self.now_s += seconds
        for owner in ("a", "d"):
            self.ledger.seen(owner)
        return self.ledger.tick()


def leases(decisions: list[Decision]) -> list[str]:
    return [one.lease_id for one in decisions if isinstance(one, Granted)]


def test_a_model_that_fits_is_granted_at_once_and_is_resident_the_second_time():
    bench = Bench(100)
    first = bench.acquire("a", "whisper", 60, "1")
    bench.ledger.release("a", "1")
    second = bench.acquire("a", "whisper", 60, "2")
    assert first == [Granted("a", "1", "whisper", "host:0", is_resident=False, waited_s=0.0)]
    assert second == [Granted("a", "2", "whisper", "host:0", is_resident=True, waited_s=0.0)]


def test_an_idle_model_leaves_for_one_that_needs_its_room_and_the_lease_comes_when_it_has_left():
    bench = Bench(100)
    bench.acquire("a", "whisper", 60, "1")
    bench.ledger.release("a", "1")
    assert bench.acquire("d", "sdxl", 70, "2") == [Offload("a", "whisper")]
    assert leases(bench.ledger.offloaded("a", "whisper")) == ["2"]


def test_a_model_in_use_does_not_leave():
    bench = Bench(100)
    bench.acquire("a", "whisper", 60, "1")
    assert bench.acquire("d", "sdxl", 70, "2") == []
    assert bench.ledger.release("a", "1") == [Offload("a", "whisper")]


def test_the_least_recently_used_leaves_and_no_more_than_must():
    bench = Bench(100)
    for lease, (model, size) in enumerate({"small": 10, "old": 40, "young": 40}.items()):
        bench.acquire("a", model, size, str(lease))
        bench.ledger.release("a", str(lease))
        bench.now_s += 1
    assert bench.acquire("d", "sdxl", 45, "x") == [Offload("a", "old")]


def test_a_pinned_model_stays_and_what_can_then_never_fit_is_refused_with_the_missing_bytes():
    bench = Bench(100, pinned=("whisper",))
    bench.acquire("a", "whisper", 60, "1")
    bench.ledger.release("a", "1")
    assert bench.acquire("d", "sdxl", 70, "2") == [Refused("d", "2", "sdxl", "too-large", 30)]
    assert bench.acquire("d", "huge", 130, "3") == [Refused("d", "3", "huge", "too-large", 90)]


def test_an_unknown_device_is_refused():
    assert Bench(100).acquire("d", "sdxl", 1, "1", device="cuda:7") == [Refused("d", "1", "sdxl", "no-such-device")]


def test_models_spread_over_devices_before_any_must_leave():
    bench = Bench(100, 80)
    one = bench.acquire("a", "whisper", 60, "1")
    two = bench.acquire("d", "sdxl", 60, "2")
    assert [decision.device for decision in one + two] == ["host:0", "host:1"]


def test_the_device_whose_idle_models_were_used_longest_ago_makes_room():
    bench = Bench(100, 100)
    for lease, model in (("1", "first"), ("2", "second")):
        bench.acquire("a", model, 90, lease)
        bench.ledger.release("a", lease)
        bench.now_s += 1
    assert bench.acquire("d", "sdxl", 90, "3") == [Offload("a", "first")]


def test_a_request_ends_at_its_deadline():
    bench = Bench(100)
    bench.acquire("a", "whisper", 100, "1")
    bench.acquire("d", "sdxl", 100, "2", wait_s=5.0)
    assert bench.later(4.9) == []
    assert bench.later(0.2) == [Refused("d", "2", "sdxl", "expired")]
    assert bench.acquire("d", "sdxl", 100, "3", wait_s=0.0) == [Refused("d", "3", "sdxl", "expired")]


def test_who_waits_long_is_not_overtaken_for_ever():
    bench = Bench(100)
    bench.acquire("a", "whisper", 100, "1")
    bench.acquire("d", "sdxl", 100, "2")
    assert leases(bench.acquire("a", "whisper", 100, "3")) == ["3"], "at first whoever needs nothing may pass"
    bench.later(2.5)
    assert bench.acquire("a", "whisper", 100, "4") == [], "then nobody may"
    bench.ledger.release("a", "1")
    assert bench.ledger.release("a", "3") == [Offload("a", "whisper")]
    assert leases(bench.ledger.offloaded("a", "whisper")) == ["2"]
    assert bench.ledger.release("d", "2") == [Offload("d", "sdxl")]
    assert leases(bench.ledger.offloaded("d", "sdxl")) == ["4"]


def test_priority_is_a_head_start_and_no_more():
    bench = Bench(100)
    bench.acquire("a", "whisper", 100, "1")
    bench.acquire("d", "low", 100, "2")
    bench.now_s += 5
    bench.acquire("d", "high", 100, "3", priority=1)
    bench.now_s += 6
    bench.acquire("d", "late", 100, "4", priority=1)
    bench.ledger.release("a", "1")
    order = []
    for _ in range(3):
        model = next(one for one in bench.ledger.snapshot().models if one.is_leaving)
        (granted,) = [one for one in bench.ledger.offloaded(*model.key) if isinstance(one, Granted)]
        order.append(granted.lease_id)
        bench.ledger.release("d", granted.lease_id)
    assert order == ["3", "2", "4"]


def test_the_lease_of_a_dead_owner_ends_after_the_grace():
    bench = Bench(100)
    bench.acquire("a", "whisper", 100, "1")
    bench.acquire("d", "sdxl", 100, "2")
    assert bench.ledger.detach("a", is_gone=False) == []
    assert bench.later(1.9) == []
    assert leases(bench.later(0.2)) == ["2"]


def test_an_owner_that_leaves_properly_frees_its_memory_at_once():
    bench = Bench(100)
    bench.acquire("a", "whisper", 100, "1")
    bench.acquire("d", "sdxl", 100, "2")
    assert leases(bench.ledger.detach("a", is_gone=True)) == ["2"]


def test_a_silent_owner_is_disconnected_and_then_dead():
    bench = Bench(100)
    bench.acquire("a", "whisper", 100, "1")
    bench.now_s += 10.5
    bench.ledger.seen("d")
    assert bench.ledger.tick() == [Disconnect("a")]
    bench.later(2.5)
    assert set(bench.ledger.snapshot().owners) == {"d"}
    assert bench.ledger.snapshot().models == ()


def test_an_owner_that_comes_back_within_the_grace_keeps_what_it_claims_and_no_more():
    bench = Bench(100)
    bench.acquire("a", "whisper", 60, "1")
    bench.acquire("a", "ge2e", 10, "2")
    bench.ledger.detach("a", is_gone=False)
    bench.ledger.attach("a", "asr", [Claim("whisper", 60, "host:0", ("1",))])
    bench.later(5)
    snapshot = bench.ledger.snapshot()
    assert snapshot.booked_bytes("host:0") == 60
    assert [model.leases for model in snapshot.models] == [{"1"}]


def test_after_a_restart_owners_report_before_anything_is_given_away():
    bench = Bench(100, rules=Rules(recovery_s=3.0, min_resident_s=0.0))
    assert bench.acquire("d", "sdxl", 60, "1") == []
    bench.ledger.attach("a", "asr", [Claim("whisper", 60, "host:0", ("old",))])
    assert bench.later(3.1) == [], "whisper is in use"
    assert bench.ledger.release("a", "old") == [Offload("a", "whisper")]


def test_more_than_the_budget_is_never_added_to_and_leaves_when_idle():
    bench = Bench(100)
    bench.acquire("a", "whisper", 60, "1")
    bench.acquire("d", "sdxl", 40, "2")
    bench.ledger.release("a", "1")
    assert bench.ledger.set_budget("host:0", 90) == [Offload("a", "whisper")]
    assert leases(bench.ledger.offloaded("a", "whisper")) == []


def test_a_load_that_failed_leaves_nothing_on_the_books():
    bench = Bench(100)
    bench.acquire("a", "whisper", 60, "1")
    bench.ledger.release("a", "1", is_resident=False)
    assert bench.ledger.snapshot().booked_bytes("host:0") == 0


def test_an_offload_that_hangs_is_not_waited_for_if_others_can_leave():
    bench = Bench(100, rules=Rules(recovery_s=0, min_resident_s=0, offload_timeout_s=5))
    for lease, model in (("1", "hung"), ("2", "healthy")):
        bench.acquire("a", model, 50, lease)
        bench.ledger.release("a", lease)
        bench.now_s += 1
    assert bench.acquire("d", "sdxl", 50, "3") == [Offload("a", "hung")]
    assert bench.later(6) == [Offload("a", "healthy")]
    assert leases(bench.ledger.offloaded("a", "healthy")) == ["3"]


def test_a_model_that_came_just_now_stays_for_a_moment():
    bench = Bench(100, rules=Rules(recovery_s=0, min_resident_s=1.0))
    bench.acquire("a", "whisper", 100, "1")
    bench.ledger.release("a", "1")
    assert bench.acquire("d", "sdxl", 100, "2") == []
    assert bench.later(1.1) == [Offload("a", "whisper")]


@pytest.mark.parametrize("size", [40, 90])
def test_a_prefetch_takes_free_room_or_that_of_models_unused_since(size: int):
    bench = Bench(100)
    bench.acquire("d", "sdxl", size, "0")
    bench.ledger.release("d", "0", is_resident=False)
    bench.acquire("a", "idle", 30, "1")
    bench.ledger.release("a", "1")
    bench.now_s += 1
    decisions = bench.ledger.prefetch("sdxl", wait_s=5.0)
    if size == 90:
        assert decisions == [Offload("a", "idle")]
        decisions = bench.ledger.offloaded("a", "idle")
    assert decisions == [Prefetch("d", "prefetch-0-1", "sdxl", "host:0")]


def test_a_prefetch_goes_where_alone_the_model_can_go():
    bench = Bench(100, 90)
    bench.ledger.attach("d", "diffusion", [Claim("llm", 60, "", only="host:1")])
    (prefetch,) = bench.ledger.prefetch("llm", wait_s=5.0)
    assert prefetch.device == "host:1"


def test_a_prefetch_does_not_send_away_what_is_at_work():
    bench = Bench(100)
    bench.acquire("d", "sdxl", 90, "0")
    bench.ledger.release("d", "0", is_resident=False)
    bench.acquire("a", "whisper", 90, "1")
    assert bench.ledger.prefetch("sdxl", wait_s=5.0) == []
    bench.now_s += 1
    assert bench.ledger.release("a", "1") == [], "the next batch may come any moment"
    assert bench.later(5) == []
    assert bench.ledger.snapshot().waiting == ()


def test_prefetches_after_a_restart_are_told_from_those_that_owners_still_claim():
    settings = ResidencySettings(devices={"host:0": 100}, recovery_s=0.0)
    begun = []
    for coordinator in (Coordinator(settings), Coordinator(settings)):
        coordinator.load()
        coordinator.ledger.attach("a", "asr", [Claim("whisper", 60, "")])
        begun += [one.lease_id for one in coordinator.ledger.prefetch("whisper", 5.0) if isinstance(one, Prefetch)]
    assert len(set(begun)) == 2


def test_a_model_that_has_left_for_good_is_in_no_book_and_not_brought_in():
    bench = Bench(100)
    bench.acquire("a", "whisper", 60, "1")
    bench.acquire("d", "sdxl", 60, "2")
    bench.ledger.release("a", "1")
    assert leases(bench.ledger.offloaded("a", "whisper")) == ["2"]
    assert bench.ledger.prefetch("whisper", wait_s=5.0) == []
    bench.ledger.offloaded("a", "whisper", is_removed=True)
    snapshot = bench.ledger.snapshot()
    assert ([model.key.model for model in snapshot.models], snapshot.waiting) == (["sdxl"], ())
    bench.ledger.release("d", "2", is_resident=False)
    assert bench.ledger.prefetch("whisper", wait_s=5.0) == []


def test_a_model_that_is_waited_for_again_stays_in_the_books():
    bench = Bench(100)
    bench.acquire("d", "sdxl", 60, "1")
    bench.acquire("a", "whisper", 60, "2")
    bench.ledger.offloaded("a", "whisper", is_removed=True)
    bench.ledger.release("d", "1")
    assert leases(bench.ledger.offloaded("d", "sdxl")) == ["2"]


def test_what_does_not_fit_beside_a_stranger_waits_for_it_to_leave():
    bench = Bench(100)
    bench.acquire("a", "whisper", 60, "1")
    bench.acquire("d", "sdxl", 70, "2")
    assert bench.ledger.set_budget("host:0", 60) == []
    bench.ledger.release("a", "1", is_resident=False)
    assert leases(bench.later(50)) == []
    assert leases(bench.acquire("a", "whisper", 60, "3")) == ["3"], "what fits is not held back meanwhile"
    bench.ledger.release("a", "3", is_resident=False)
    assert leases(bench.ledger.set_budget("host:0", 100)) == ["2"]


def test_a_stranger_that_stays_ends_the_wait_at_its_deadline():
    bench = Bench(100)
    bench.ledger.set_budget("host:0", 60)
    assert bench.acquire("d", "sdxl", 70, "1") == []
    assert bench.later(61) == [Refused("d", "1", "sdxl", "expired")]
    assert bench.acquire("d", "huge", 101, "2") == [Refused("d", "2", "huge", "too-large", 1)]


def test_the_reserve_of_a_device_is_for_no_model():
    devices = [Device("cuda:0", "", total_bytes=110, budget_bytes=40, reserve_bytes=10)]
    ledger = Ledger(devices, lambda: 100.0, RULES)
    ledger.attach("d", "diffusion")
    assert ledger.acquire("d", "1", "sdxl", 105, wait_s=60) == [Refused("d", "1", "sdxl", "too-large", 5)]
    assert ledger.acquire("d", "2", "sdxl", 100, wait_s=60) == []


def test_a_model_on_a_device_that_a_stranger_fills_goes_to_another():
    bench = Bench(100, 80, rules=Rules(recovery_s=0, min_resident_s=1.0))
    bench.acquire("a", "whisper", 60, "1")
    bench.ledger.release("a", "1")
    assert bench.ledger.set_budget("host:0", 50) == [], "it came just now"
    assert leases(bench.acquire("a", "whisper", 60, "2")) == ["2"], "what is there is there"
    bench.ledger.release("a", "2")
    assert bench.later(1.1) == [Offload("a", "whisper")]
    assert bench.acquire("a", "whisper", 60, "3") == []
    (granted,) = bench.ledger.offloaded("a", "whisper")
    assert granted == Granted("a", "3", "whisper", "host:1", is_resident=False, waited_s=0.0)


def test_a_model_that_grows_beyond_its_device_goes_to_another_and_is_not_overtaken_for_ever():
    bench = Bench(100, 80)
    bench.acquire("a", "whisper", 40, "1")
    bench.ledger.set_budget("host:0", 60)
    assert bench.acquire("a", "whisper", 70, "2") == []
    assert leases(bench.acquire("a", "whisper", 40, "3")) == ["3"]
    bench.later(2.5)
    assert bench.acquire("a", "whisper", 40, "4") == []
    bench.ledger.release("a", "1")
    assert bench.ledger.release("a", "3") == [Offload("a", "whisper")]
    granted = bench.ledger.offloaded("a", "whisper")
    assert [(one.lease_id, one.device) for one in granted if isinstance(one, Granted)] == [
        ("2", "host:1"),
        ("4", "host:1"),
    ]


def test_a_pinned_model_that_grows_beyond_its_device_is_refused_at_once_for_it_does_not_move():
    bench = Bench(80, 100, pinned=("whisper",))
    bench.acquire("a", "whisper", 60, "1", device="host:0")
    assert bench.acquire("a", "whisper", 90, "2") == [Refused("a", "2", "whisper", "too-large", 10)]


def test_two_models_that_grow_at_once_do_not_get_the_same_bytes():
    bench = Bench(100)
    for lease, model, size in (("1", "whisper", 40), ("2", "ge2e", 40), ("3", "small", 20)):
        bench.acquire("a", model, size, lease)
    assert bench.acquire("a", "whisper", 60, "4") + bench.acquire("a", "ge2e", 60, "5") == []
    assert leases(bench.ledger.release("a", "3", is_resident=False)) == ["4"]
    assert bench.ledger.snapshot().booked_bytes("host:0") == 100
