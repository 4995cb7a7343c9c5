"""Budgets of devices."""

from types import SimpleNamespace

import pynvml
import pytest
from pydantic import ValidationError

from narrative.errors import WeightsError
from services.residency.inventory import DeclaredInventory, NvmlInventory, budget_beside_strangers, open_inventory
from services.residency.settings import ResidencySettings
from services.residency.state import Device

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


UUIDS = ["GPU-1111-aaaa", "GPU-1111-bbbb", "GPU-2222-cccc"]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Three cards of 24 GiB in place of NVML's, and the bytes used of each."""
    used = {0: 1 * GIB, 1: 9 * GIB, 2: 2 * GIB}
    nvml = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(UUIDS),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: UUIDS[handle],
        "nvmlDeviceGetName": lambda handle: f"card {handle}",
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=24 * GIB, used=used[handle]),
    }
    for name, function in nvml.items():
        monkeypatch.setattr(pynvml, name, function)
    return used


def test_the_gpus_of_nvml_are_named_as_torch_names_them(used: dict[int, int]):
    inventory = NvmlInventory(reserve_bytes=1 * GIB)
    assert inventory.devices() == [
        Device("cuda:0", "card 0", 24 * GIB, 23 * GIB, 1 * GIB),
        Device("cuda:1", "card 1", 24 * GIB, 15 * GIB, 1 * GIB),
        Device("cuda:2", "card 2", 24 * GIB, 22 * GIB, 1 * GIB),
    ]
    used[0] += 6 * GIB
    assert inventory.budget_bytes("cuda:0", booked_bytes=6 * GIB) == 23 * GIB
    assert inventory.budget_bytes("cuda:0", booked_bytes=0) == 17 * GIB


@pytest.mark.parametrize(
    ("visible", "cards"),
    [
        ("1", [1]),
        ("2, 0", [2, 0]),
        ("GPU-1111-bbbb,GPU-2", [1, 2]),
        ("0,-1,1", [0]),
        ("0,7,1", [0]),
        ("GPU-1111,0", []),
        ("1,GPU-1111-bbbb,0", [1]),
    ],
    ids=["one", "another order", "UUIDs", "-1 ends it", "so does what is not there", "ambiguous", "twice the same"],
)
def test_gpus_are_those_that_cuda_sees_in_its_order(
    used: dict[int, int], monkeypatch: pytest.MonkeyPatch, visible: str, cards: list[int]
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    settings = ResidencySettings()
    inventory = open_inventory(settings.devices, GIB, settings.cuda_visible_devices)
    if not cards:
        with pytest.raises(WeightsError, match=f"CUDA_VISIBLE_DEVICES is '{visible}'.*declare a device"):
            inventory.devices()
        return
    assert [(device.id, device.name) for device in inventory.devices()] == [
        (f"cuda:{number}", f"card {card}") for number, card in enumerate(cards)
    ]
    used[cards[0]] = 20 * GIB
    assert inventory.budget_bytes("cuda:0", booked_bytes=0) == 4 * GIB


def test_a_machine_without_gpu_is_told_what_to_declare(monkeypatch: pytest.MonkeyPatch):
    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    with pytest.raises(WeightsError, match="NARRATIVE_RESIDENCY__DEVICES"):
        NvmlInventory(0).devices()
