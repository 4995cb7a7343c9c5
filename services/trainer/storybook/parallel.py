"""Several processes that share the steps of one training: each computes a part of the batch.

On a busy machine two processes of one thread each get further than one of two threads, whose barriers wait for
whichever thread was put aside last.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import distributed

spawn: Any = importlib.import_module("torch.multiprocessing.spawn")  # untyped upstream


def rank() -> int:
    """Return this process's number; 0 saves and writes the log."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return how many processes share the training."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


class _Exchange:
    """Memory that all processes see, in which each has a row."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._slots: list[torch.Tensor] = []

    def mean(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the mean over all processes of flat tensors, one after another."""
        if not self._slots:
            shape = (world_size(), sum(len(part) for part in parts))
            paths = [str(self._folder / name) for name in ("even", "odd")]
            self._slots = [torch.from_file(path, shared=True, size=shape[0] * shape[1]).view(shape) for path in paths]
        slot = self._slots[0]
        # By turns: who has passed the barrier writes the other slot while the slowest still reads this one.
        self._slots.reverse()
        torch.cat(list(parts), out=slot[rank()])
        distributed.barrier()
        return slot.mean(dim=0)


_exchange: _Exchange | None = None


@torch.no_grad()
def share(parameters: Iterable[torch.nn.Parameter], loss: float, stop: bool) -> tuple[float, bool]:
    """Average gradients and loss over the processes; tell all of them to stop when any was asked to."""
    if _exchange is None:
        return loss, stop
    gradients = [p.grad for p in parameters if p.grad is not None]
    parts = [*(gradient.flatten() for gradient in gradients), torch.tensor([loss, float(stop)])]
    flat = _exchange.mean(parts)
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
    return float(flat[-2]), bool(flat[-1] > 0)


def _enter(number: int, work: Callable[[], object], workers: int, folder: str, threads: int) -> None:
    global _exchange
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(threads)
    logging.basicConfig(level=logging.INFO if number == 0 else logging.WARNING, format="%(asctime)s %(message)s")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=workers)
    _exchange = _Exchange(Path(folder))
    try:
        work()
    finally:
        distributed.destroy_process_group()


def run(work: Callable[[], object], workers: int, threads: int) -> None:
    """Run ``work`` (which must be picklable) in this process, or in several; SIGTERM is passed on to them."""
    if workers <= 1:
        work()
        return
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        context = spawn.start_processes(
            _enter, args=(work, workers, folder, threads), nprocs=workers, join=False, start_method="spawn"
        )

        def pass_on(number: int, frame: FrameType | None) -> None:
            del frame
            for process in context.processes:
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, number)

        signal.signal(signal.SIGTERM, pass_on)
        while not context.join():
            pass
