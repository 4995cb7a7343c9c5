"""Calls a network for a few pictures of a batch at a time, always as many, and not for pictures nobody wants.

A convolution or a matrix product over four pictures gives other last digits than over one, because kernels are chosen
by shape. Where each call has the shape that a lone picture has, a picture is the same alone and in a batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

# Arguments of the FLUX transformer that have no batch dimension.
_UNBATCHED = frozenset({"txt_ids", "img_ids"})


class PictureSplitter:
    """Wraps networks whose first dimension counts pictures, or pictures times the branches of guidance.

    Args:
        pictures_per_call: pictures in every call, filled up with copies; 0 for one call with all that are wanted.
    """

    def __init__(self, pictures_per_call: int) -> None:
        self._pictures_per_call = pictures_per_call
        self._num_pictures = 1
        self._wanted: Callable[[int], bool] = lambda _: True

    def start(self, num_pictures: int, wanted: Callable[[int], bool]) -> None:
        """Sets what the next calls are about.

        Args:
            wanted: whether a picture of the batch is still worth computing; the others come out as zeros.
        """
        self._num_pictures = num_pictures
        self._wanted = wanted

    def wrap(self, call: Callable[..., Any]) -> Callable[..., tuple[torch.Tensor]]:
        """``call``, split; row r * pictures + p of its first argument, a tensor, belongs to picture p."""

        def split(*args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
            first = args[0] if args else kwargs["hidden_states"]
            total = int(first.shape[0])
            output: torch.Tensor | None = None
            for chunk in self._chunks():
                rows = [row for pictures in range(0, total, self._num_pictures) for row in _shift(chunk, pictures)]
                part = call(
                    *(_take(value, rows, total) for value in args),
                    **{
                        name: value if name in _UNBATCHED else _take(value, rows, total)
                        for name, value in kwargs.items()
                    },
                )[0]
                if output is None:
                    output = part.new_zeros((total, *part.shape[1:]))
                output[rows] = part
            if output is None:
                raise EverythingCancelled
            return (output,)

        return split

    def _chunks(self) -> list[list[int]]:
        wanted = [picture for picture in range(self._num_pictures) if self._wanted(picture)]
        size = self._pictures_per_call or max(1, len(wanted))
        chunks = [wanted[start : start + size] for start in range(0, len(wanted), size)]
        return [chunk + chunk[-1:] * (size - len(chunk)) if self._pictures_per_call else chunk for chunk in chunks]


class EverythingCancelled(Exception):
    """Nobody waits for any picture of the batch any longer."""


def _shift(chunk: Sequence[int], by: int) -> list[int]:
    return [picture + by for picture in chunk]


def _take(value: Any, rows: Sequence[int], total: int) -> Any:
    if isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == total:
        return value[list(rows)]
    if isinstance(value, dict):
        return {name: _take(entry, rows, total) for name, entry in value.items()}
    return value
