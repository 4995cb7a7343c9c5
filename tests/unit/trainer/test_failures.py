"""Failures of the machine, in words."""

import errno

import pytest
import torch

from narrative.errors import DiskFull, OutOfMemory
from services.trainer.failures import clear_errors


def test_memory_that_is_not_there_is_told_with_what_to_lower() -> None:
    with pytest.raises(OutOfMemory, match="lower train_batch_size"), clear_errors():
        torch.empty(2**58, dtype=torch.uint8)
    with pytest.raises(OutOfMemory, match="gradient_checkpointing"), clear_errors():
        bytearray(2**60)
    with pytest.raises(OutOfMemory), clear_errors():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_with_the_file(number: int) -> None:
    with pytest.raises(DiskFull, match=r"no room to write /x/weights\.bin"), clear_errors():
        raise OSError(number, "No space left", "/x/weights.bin")


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), clear_errors():
        raise RuntimeError("shapes do not match")
    with pytest.raises(PermissionError), clear_errors():
        raise PermissionError(errno.EACCES, "no", "/x")
