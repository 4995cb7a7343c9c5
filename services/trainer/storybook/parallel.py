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
from collections.abc import Callable, Iterable
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


@torch.no_grad()
def share(parameters: Iterable[torch.nn.Parameter], loss: float, stop: bool) -> tuple[float, bool]:
    """Average gradients and loss over the processes; tell all of them to stop when any was asked to."""
    if world_size() == 1:
        return loss, stop
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor([loss, float(stop)])])
    distributed.all_reduce(flat)
    flat /= world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
    return float(flat[-2]), bool(flat[-1] > 0)


def _enter(number: int, work: Callable[[], object], workers: int, meeting: str, threads: int) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(threads)
    logging.basicConfig(level=logging.INFO if number == 0 else logging.WARNING, format="%(asctime)s %(message)s")
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=workers)
    try:
        work()
    finally:
        distributed.destroy_process_group()


def run(work: Callable[[], object], workers: int, threads: int) -> None:
    """Run ``work`` (which must be picklable) in this process, or in several; SIGTERM is passed on to them."""
    if workers <= 1:
        work()
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        context = spawn.start_processes(
            _enter, args=(work, workers, meeting, threads), nprocs=workers, join=False, start_method="spawn"
        )

        def pass_on(number: int, frame: FrameType | None) -> None:
            del frame
            for process in context.processes:
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, number)

        signal.signal(signal.SIGTERM, pass_on)
        while not context.join():
            pass
