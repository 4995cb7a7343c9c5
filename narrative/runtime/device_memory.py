"""Memory that an allocation did not get, whichever library says so, and one more try for it."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
# What the allocators of torch, CTranslate2, CUDA, cuBLAS, cuDNN and the system say.
_SIGNS = (
    "out of memory",
    "out_of_memory",
    "alloc_failed",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; few allocators have an exception class of their own."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _SIGNS)


def trying_twice(work: Callable[[], T], give_back: Callable[[], object]) -> T:
    """The result of ``work``, done once more where memory is short, after ``give_back``."""
    try:
        return work()
    except (RuntimeError, OSError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Not in the handler: there the error keeps what the first attempt had taken.
    give_back()
    return work()
