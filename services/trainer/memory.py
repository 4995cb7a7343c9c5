"""Memory that is free, but not for others."""

import contextlib
import ctypes
import gc
import sys

import torch


def give_back_freed_memory() -> None:
    """Returns what was freed to the system or the GPU; glibc and torch would keep it for whoever asks next."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        # Other C libraries than glibc have no such function.
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
