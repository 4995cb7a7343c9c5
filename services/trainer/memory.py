"""Memory that is free, but not for others."""

import contextlib
import ctypes
import gc
import os
import sys

import torch

# Of glibc's malloc.h.
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 4 << 20


def give_back_large_blocks() -> None:
    """From now on blocks of 4 MiB and more go back to the system as soon as they are freed.

    Left to itself, glibc keeps blocks of up to 32 MiB, and a step's tensors of many sizes leave holes between one
    another. It costs time where many such blocks come and go (Whisper: a quarter), next to none for a UNet.
    An environment that sets MALLOC_MMAP_THRESHOLD_ decides for itself.
    """
    if sys.platform == "linux" and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        # Other C libraries than glibc have no such function.
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back_freed_memory() -> None:
    """Returns what was freed to the system or the GPU; glibc and torch would keep it for whoever asks next."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        # Other C libraries than glibc have no such function.
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
