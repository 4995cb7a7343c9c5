"""Which devices there are, and how much of them models may fill.

CUDA numbers the GPUs that CUDA_VISIBLE_DEVICES lists, in that order; NVML numbers all there are, in the order of their
PCI addresses, which is CUDA's too where CUDA_DEVICE_ORDER is PCI_BUS_ID. Devices are named as CUDA numbers them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pynvml

from narrative.errors import WeightsError
from services.residency.state import Device

_DECLARE = """declare a device instead: NARRATIVE_RESIDENCY__DEVICES='{"host:0": "2GiB"}'"""


class Inventory(Protocol):
    """The devices of this machine."""

    def devices(self) -> list[Device]: ...

    def budget_bytes(self, device: str, booked_bytes: int) -> int:
        """What models may fill now, given what they have booked."""

    def close(self) -> None: ...


class DeclaredInventory:
    """Devices by declaration: memory of this machine, of which nobody else takes any."""

    def __init__(self, budgets: Mapping[str, int]) -> None:
        self._budgets = budgets

    def devices(self) -> list[Device]:
        return [Device(name, "declared", size, size) for name, size in self._budgets.items()]

    def budget_bytes(self, device: str, booked_bytes: int) -> int:
        return self._budgets[device]

    def close(self) -> None:
        pass


class NvmlInventory:
    """The GPUs that NVML finds and CUDA sees, named as torch names them: "cuda:0".

    Args:
        reserve_bytes: left free on each, for CUDA contexts and what else is not booked.
        visible: CUDA_VISIBLE_DEVICES, indices or UUIDs; None where it is not set.
    """

    def __init__(self, reserve_bytes: int, visible: str | None = None) -> None:
        self._reserve_bytes = reserve_bytes
        self._visible = visible
        self._is_open = False
        self._handles: dict[str, Any] = {}

    def devices(self) -> list[Device]:
        """Opens NVML and lists the GPUs.

        Raises:
            WeightsError: there is no driver or no GPU.
        """
        try:
            pynvml.nvmlInit()
            self._is_open = True
            handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
            uuids = [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
            seen = visible_indices(uuids, self._visible)
            self._handles = {f"cuda:{number}": handles[index] for number, index in enumerate(seen)}
            found = [self._device(name) for name in self._handles]
        except pynvml.NVMLError as error:
            raise WeightsError(f"no GPU found ({error}); {_DECLARE}") from error
        if not found:
            hidden = f" (CUDA_VISIBLE_DEVICES is {self._visible!r})" if handles else ""
            raise WeightsError(f"NVML finds no GPU{hidden}; {_DECLARE}")
        return found

    def budget_bytes(self, device: str, booked_bytes: int) -> int:
        memory = pynvml.nvmlDeviceGetMemoryInfo(self._handles[device])
        return budget_beside_strangers(int(memory.total), int(memory.used), booked_bytes, self._reserve_bytes)

    def close(self) -> None:
        if self._is_open:
            pynvml.nvmlShutdown()

    def _device(self, name: str) -> Device:
        handle = self._handles[name]
        total = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
        product = str(pynvml.nvmlDeviceGetName(handle))
        return Device(name, product, total, self.budget_bytes(name, 0), self._reserve_bytes)


def visible_indices(uuids: Sequence[str], visible: str | None) -> list[int]:
    """Indices of the GPUs that CUDA sees, in its order.

    Args:
        uuids: of all GPUs, in the order of their PCI addresses.
        visible: CUDA_VISIBLE_DEVICES: indices, or UUIDs or beginnings of them; CUDA stops at the first that is none.
    """
    if visible is None:
        return list(range(len(uuids)))
    chosen: list[int] = []
    for entry in (part.strip() for part in visible.split(",")):
        named = [index for index, uuid in enumerate(uuids) if entry and (entry == str(index) or uuid.startswith(entry))]
        if len(named) != 1 or named[0] in chosen:
            break
        chosen += named
    return chosen


def budget_beside_strangers(total: int, used: int, booked: int, reserve: int) -> int:
    """Bytes that models may fill: all but the reserve, less what is used beyond the books and the reserve.

    What is booked and not filled yet hides as much of a stranger's memory; it shows when the model has been loaded.
    """
    stranger = max(0, used - booked - reserve)
    return max(0, total - reserve - stranger)


def open_inventory(declared: Mapping[str, int], reserve_bytes: int, visible: str | None) -> Inventory:
    """Declared devices where there are any, else the GPUs that CUDA_VISIBLE_DEVICES lets be seen."""
    return DeclaredInventory(declared) if declared else NvmlInventory(reserve_bytes, visible)
