"""Which devices there are, and how much of them models may fill."""

from collections.abc import Mapping
from typing import Protocol

import pynvml

from narrative.errors import WeightsError
from services.residency.state import Device


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
    """The GPUs that NVML finds, named as torch names them: "cuda:0".

    Args:
        reserve_bytes: left free on each, for CUDA contexts and what else is not booked.
    """

    def __init__(self, reserve_bytes: int) -> None:
        self._reserve_bytes = reserve_bytes
        self._is_open = False

    def devices(self) -> list[Device]:
        """Opens NVML and lists the GPUs.

        Raises:
            WeightsError: there is no driver or no GPU.
        """
        try:
            pynvml.nvmlInit()
            self._is_open = True
            found = [self._device(index) for index in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError as error:
            raise WeightsError(
                f"no GPU found ({error}); declare a device instead: "
                """NARRATIVE_RESIDENCY__DEVICES='{"host:0": "2GiB"}'"""
            ) from error
        if not found:
            raise WeightsError("NVML finds no GPU; declare a device with NARRATIVE_RESIDENCY__DEVICES")
        return found

    def budget_bytes(self, device: str, booked_bytes: int) -> int:
        memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(int(device.removeprefix("cuda:"))))
        return budget_beside_strangers(int(memory.total), int(memory.used), booked_bytes, self._reserve_bytes)

    def close(self) -> None:
        if self._is_open:
            pynvml.nvmlShutdown()

    def _device(self, index: int) -> Device:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        total = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
        name = f"cuda:{index}"
        return Device(name, str(pynvml.nvmlDeviceGetName(handle)), total, self.budget_bytes(name, 0))


def budget_beside_strangers(total: int, used: int, booked: int, reserve: int) -> int:
    """Bytes that models may fill: all but the reserve, less what is used beyond the books and the reserve.

    What is booked and not filled yet hides as much of a stranger's memory; it shows when the model has been loaded.
    """
    stranger = max(0, used - booked - reserve)
    return max(0, total - reserve - stranger)


def open_inventory(declared: Mapping[str, int], reserve_bytes: int) -> Inventory:
    """Declared devices where there are any, else the GPUs."""
    return DeclaredInventory(declared) if declared else NvmlInventory(reserve_bytes)
