"""The one place where failures of the machine become errors for people."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from narrative.errors import DiskFull, OutOfMemory

_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


@contextmanager
def clear_errors() -> Iterator[None]:
    """Names a full disk and missing memory, and what to do about them.

    Raises:
        DiskFull: there was no room to write.
        OutOfMemory: the device had no room.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory() from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(f"no room to write {error.filename or 'a file'}: {error.strerror}") from error
        raise
    except RuntimeError as error:
        # The CPU allocator has no exception class of its own.
        if any(words in str(error) for words in _NO_MEMORY):
            raise _out_of_memory() from error
        raise


def _out_of_memory() -> OutOfMemory:
    return OutOfMemory(
        "no memory for this training; lower train_batch_size (and raise gradient_accumulation_steps) or resolution, "
        "or turn on gradient_checkpointing or mixed_precision"
    )
