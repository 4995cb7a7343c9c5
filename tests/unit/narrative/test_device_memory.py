"""How allocators say that memory is short, and what else sounds like it."""

import pytest

from narrative.runtime.device_memory import is_out_of_memory, trying_twice

SHORT = [
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA failed with error out of memory"),
    RuntimeError("cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
    OSError(12, "Cannot allocate memory"),
    MemoryError("std::bad_alloc"),
]


@pytest.mark.parametrize("error", SHORT, ids=str)
def test_short_memory_is_told_by_what_is_said(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("said", ["CUDA error: an illegal memory access", "CUBLAS_STATUS_NOT_SUPPORTED"])
def test_other_errors_are_none_of_it(said: str) -> None:
    assert not is_out_of_memory(RuntimeError(said))


def test_only_short_memory_is_tried_twice() -> None:
    done: list[str] = []

    def work() -> str:
        done.append("work")
        if done.count("work") == 1:
            raise RuntimeError("out of memory")
        return "result"

    assert trying_twice(work, lambda: done.append("give back")) == "result"
    assert done == ["work", "give back", "work"]

    def broken() -> None:
        done.append("broken")
        raise RuntimeError("another error")

    with pytest.raises(RuntimeError, match="another"):
        trying_twice(broken, lambda: None)
    assert done[3:] == ["broken"]
