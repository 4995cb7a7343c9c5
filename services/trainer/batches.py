"""Which examples make which step: a pure function of the seed and the step, so that a resumed run sees the same."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Draw:
    """One reading of one example.

    Attributes:
        index: which example.
        seed: of everything random about this reading (crop, flip, dropped caption); differs from epoch to epoch.
    """

    index: int
    seed: int


class Examples(Protocol):
    """A data set; reading is lazy, one example at a time."""

    def __len__(self) -> int:
        """How many examples."""
        ...

    def __getitem__(self, draw: Draw) -> Any:
        """Reads one example."""
        ...

    def collate(self, items: list[Any]) -> Any:
        """Makes a batch; tensors in it (also in dicts, lists and tuples) are moved to the device by the loop."""
        ...


class BatchPlan:
    """Deals examples out: every epoch is a new shuffle, every step takes as many passes as are accumulated.

    The last step of an epoch may be smaller; no example is left out and none comes twice, except that with several
    processes the last step is filled up so that each has the same number.
    """

    def __init__(
        self, num_examples: int, batch_size: int, accumulation: int, seed: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self._num, self._batch_size, self._seed = num_examples, batch_size, seed
        self._rank, self._world_size = rank, world_size
        self._step_size = batch_size * accumulation * world_size
        self.steps_per_epoch = -(-num_examples // self._step_size)

    def passes(self, step: int) -> list[list[Draw]]:
        """The batches that this process computes for a step, one a pass."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self._seed, epoch)).permutation(self._num)
        chosen = order[position * self._step_size : (position + 1) * self._step_size]
        lacking = -len(chosen) % self._world_size
        chosen = np.concatenate([chosen, np.resize(order, lacking)])[self._rank :: self._world_size]
        draws = [Draw(int(index), stream_seed(self._seed, "example", epoch, int(index))) for index in chosen]
        return [draws[start : start + self._batch_size] for start in range(0, len(draws), self._batch_size)]

    def from_step(self, step: int) -> Iterator[list[Draw]]:
        """All passes from a step on, without end."""
        while True:
            yield from self.passes(step)
            step += 1


def stream_seed(*parts: object) -> int:
    """A seed in [0, 2**63) that depends on all parts and on nothing else."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
