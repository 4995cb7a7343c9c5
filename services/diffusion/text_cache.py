"""Text embeddings of what was drawn before: the same words with the same text encoders give the same tensors."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping

import torch

Tensors = Mapping[str, torch.Tensor]


class TextCache:
    """Keeps embeddings in host memory, whatever the device, so that they take none of what residency counts.

    Args:
        max_bytes: of all embeddings together; the least recently used go first. 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, Tensors] = OrderedDict()
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of the embeddings that are kept."""
        return self._num_bytes

    def get(self, key: Hashable, make: Callable[[], Tensors], device: torch.device) -> Tensors:
        """The embeddings of a key on a device, made where they are not kept.

        Args:
            key: everything that the embeddings depend on.
        """
        kept = self._entries.get(key)
        if kept is None:
            made = make()
            self._keep(key, {name: tensor.to("cpu", copy=True) for name, tensor in made.items()})
            return made
        self._entries.move_to_end(key)
        return {name: tensor.to(device) for name, tensor in kept.items()}

    def _keep(self, key: Hashable, tensors: Tensors) -> None:
        self._entries[key] = tensors
        self._num_bytes += _num_bytes(tensors)
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= _num_bytes(self._entries.popitem(last=False)[1])


def _num_bytes(tensors: Tensors) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())
