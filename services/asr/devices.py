"""Devices of the diarizers, which run on torch."""

import torch


def torch_device(name: str) -> str:
    """A device as torch calls it: "host:0", memory of this machine in place of a GPU's, is the CPU."""
    return "cpu" if name.startswith("host") else name


def give_back_memory() -> None:
    """Returns what torch keeps of a GPU for later to the driver, so that other processes can have it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
