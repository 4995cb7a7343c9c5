"""The one place where failures of the machine become errors for people."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

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


@contextmanager
def failures_to_write(what: Path) -> Iterator[None]:
    """Names what could not be written, also where safetensors raises an error of its own.

    Args:
        what: the file or folder that is written.

    Raises:
        OSError: it could not be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(what)) from error
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(what)) from error


def _out_of_memory() -> OutOfMemory:
    return OutOfMemory(
        "no memory for this training; lower train_batch_size (and raise gradient_accumulation_steps) or resolution, "
        "or turn on gradient_checkpointing or mixed_precision"
    )
