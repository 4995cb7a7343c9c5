"""Budgets of devices."""

import pytest
from pydantic import ValidationError

from services.residency.inventory import DeclaredInventory, budget_beside_strangers
from services.residency.settings import ResidencySettings

GIB = 1 << 30


@pytest.mark.parametrize(
    ("used", "booked", "budget"),
    [
        (0, 0, 23 * GIB),
        (10 * GIB, 10 * GIB, 23 * GIB),
        (int(10.5 * GIB), 10 * GIB, 23 * GIB),
        (15 * GIB, 10 * GIB, 19 * GIB),
        (2 * GIB, 10 * GIB, 23 * GIB),
        (24 * GIB, 0, 0),
    ],
    ids=["empty", "filled as booked", "contexts lie in the reserve", "a stranger", "booked, not filled yet", "full"],
)
def test_a_stranger_s_memory_comes_off_the_budget(used: int, booked: int, budget: int):
    assert budget_beside_strangers(24 * GIB, used, booked, GIB) == budget


def test_declared_devices_are_read_as_sizes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NARRATIVE_RESIDENCY__DEVICES", '{"host:0": "2GiB", "host:1": 1000}')
    (first, second) = DeclaredInventory(ResidencySettings().devices).devices()
    assert (first.id, first.budget_bytes) == ("host:0", 2 * GIB)
    assert second.total_bytes == 1000


def test_a_size_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NARRATIVE_RESIDENCY__DEVICES", '{"host:0": "much"}')
    with pytest.raises(ValidationError, match="host:0"):
        ResidencySettings()
