"""Processes that share the steps of one training."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch

from services.trainer.storybook import parallel


def _share_three_steps(folder: Path) -> None:
    """What one process of ``parallel.run`` does in the test below: its gradients are its number, times the step."""
    weights = [torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(5))]
    seen = []
    for step in range(1, 4):
        for weight in weights:
            weight.grad = torch.full_like(weight, float(parallel.rank() * step))
        loss, stopping = parallel.share(weights, float(parallel.rank()), stop=step == 3 and parallel.rank() == 1)
        seen.append([loss, float(stopping), *(float(w.grad.mean()) for w in weights if w.grad is not None)])
    (folder / f"{parallel.rank()}.json").write_text(json.dumps(seen), encoding="utf-8")


def test_processes_that_share_a_training_take_the_same_steps(tmp_path: Path) -> None:
    parallel.run(functools.partial(_share_three_steps, tmp_path), workers=2, threads=1)
    wanted = [[0.5, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 1.0], [0.5, 1.0, 1.5, 1.5]]
    assert [json.loads((tmp_path / f"{number}.json").read_text(encoding="utf-8")) for number in (0, 1)] == [wanted] * 2
