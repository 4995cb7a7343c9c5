"""Failures of the machine, in words."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from narrative.errors import DiskFull, OutOfMemory
from services.trainer.failures import clear_errors, failures_to_write


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


def test_what_was_written_is_named_where_the_error_does_not(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskFull, match="no room to write /x: File too large"),
        clear_errors(),
        failures_to_write(Path("/x")),
    ):
        raise OSError(errno.EFBIG, "File too large")
    with pytest.raises(FileNotFoundError) as caught, failures_to_write(Path("/x")):
        save_file({"weights": torch.zeros(1)}, tmp_path / "nowhere" / "weights.safetensors")
    assert caught.value.filename == "/x"
    with pytest.raises(SafetensorError), failures_to_write(Path("/x")):
        raise SafetensorError("invalid header")
