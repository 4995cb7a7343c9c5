"""torch.compile for the denoiser."""

import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch.fx.experimental import _config as shapes

from narrative.errors import WeightsError

# What inductor looks for where CXX is not set.
_COMPILERS = ("g++", "clang++")


def compiled(call: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """``call`` compiled once for pictures of every size, when it is first called.

    Raises:
        WeightsError: no such backend, or no compiler for it.
    """
    backends = torch.compiler.list_backends(exclude_tags=())
    if backend not in backends:
        raise WeightsError(f"no backend {backend!r} of torch.compile here; there are {', '.join(backends)}")
    if backend == "inductor" and not any(map(shutil.which, _COMPILERS)):
        raise WeightsError(
            f"compiling the denoiser needs a C++ compiler, one of {', '.join(_COMPILERS)}; install one, or turn "
            "NARRATIVE_DIFFUSION__COMPILE off"
        )
    network = torch.compile(call, backend=backend, dynamic=True)

    def call_compiled(*args: Any, **kwargs: Any) -> Any:
        # Otherwise a square picture makes a network for squares, and the first other one compiles again. The setting
        # holds for one thread, so it is made here.
        with shapes.patch(use_duck_shape=False):  # type: ignore[attr-defined]
            return network(*map(_as_float, args), **kwargs)

    return call_compiled


def _as_float(value: Any) -> Any:
    """Some schedulers count time in integers, others in floats; the networks make floats of them anyway."""
    is_count = isinstance(value, torch.Tensor) and not value.dim() and not value.is_floating_point()
    return value.float() if is_count else value
