"""Devices of the diarizers, which run on torch."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from narrative.errors import OutOfMemory
from narrative.runtime.device_memory import is_out_of_memory, trying_twice

T = TypeVar("T")


def torch_device(name: str) -> str:
    """A device as torch calls it: "host:0", memory of this machine in place of a GPU's, is the CPU."""
    return "cpu" if name.startswith("host") else name


def give_back_memory() -> None:
    """Returns what torch keeps of a GPU for later to the driver, so that other processes can have it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def with_memory_of(device: str, work: Callable[[], T]) -> T:
    """The result of ``work`` of a diarizer, done once more where memory is short.

    Args:
        device: its name for people.

    Raises:
        OutOfMemory: there was no room the second time either.
    """
    try:
        return trying_twice(work, give_back_memory)
    except (RuntimeError, OSError, MemoryError) as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"{device} has no room to tell the speakers apart now", retry_after_s=5.0) from error
        raise
