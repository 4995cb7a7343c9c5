"""Training of the judge, on scenes of its own: it never sees what the picture model learns from.

``python -m services.trainer.storybook.judge_training`` does it on any machine, a bare one with an accelerator too.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from services.trainer.storybook import composing, dataset, initialise, parts
from services.trainer.storybook.judge import Judge, JudgeSize, labels
from services.trainer.storybook.plan import JUDGE_SEEDS, Planner

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """Settings of a judge's training; ``minutes`` are in all, resumed time included."""

    minutes: float = 10.0
    scenes: int = 20_000
    workers: int = 2
    batch: int = 32
    learning_rate: float = 1.5e-3
    size: JudgeSize = field(default_factory=JudgeSize)
    seed: int = 0
    device: str = "cpu"
    bf16: bool = False


def judge_path(work_dir: Path) -> Path:
    """Return where a trained judge lies."""
    return work_dir / "judge" / "judge.safetensors"


def compose(work_dir: Path, options: JudgeOptions) -> None:
    """Compose the judge's scenes, of the same things as those of ``work_dir``; those already there are kept.

    Raises:
        EditionError: if scenes of another edition or of other things are there.
    """
    first = JUDGE_SEEDS.start // dataset.SHARD_SCENES
    folder = work_dir / "judge"
    dataset.keep_to(folder, dataset.things(work_dir))
    workers = composing.start(
        folder,
        options.size.size_px,
        options.workers,
        options.scenes,
        first_shard=first,
        parts_dir=work_dir,
        centres=True,
    )
    for worker in workers:
        if worker.wait() != 0:
            raise RuntimeError(f"a composing process ended with status {worker.returncode}; its error is above")


def train(work_dir: Path, options: JudgeOptions, clock: Callable[[], float] = time.monotonic) -> Path:
    """Train on the judge's scenes, resuming; return the judge's file.

    Raises:
        FileNotFoundError: if no scenes have been composed for it.
    """
    folder, device = work_dir / "judge", torch.device(options.device)
    dataset.check_edition(folder)
    known = dataset.known(folder)
    torch.manual_seed(options.seed)
    judge = Judge(known, options.size).to(device)
    initialise.channels_last(judge)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=options.learning_rate, weight_decay=0.02, betas=(0.9, 0.98))
    pictures, wanted, places = _scenes(folder, options.size.size_px, judge)
    state_path, step, spent_s = folder / "judge.pt", 0, 0.0
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        judge.load_state_dict(state["judge"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent_s = state["step"], state["spent_s"]
    budget_s, saved_s = options.minutes * 60, spent_s
    started, before_s = clock(), spent_s
    while spent_s < budget_s:
        for group in optimiser.param_groups:
            fall = 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * spent_s / budget_s))
            group["lr"] = options.learning_rate * min(1.0, (step + 1) / 100) * fall
        rng = np.random.default_rng((options.seed, step))
        chosen = np.sort(rng.integers(0, len(wanted), options.batch))
        chosen_pictures = [pictures[i // dataset.SHARD_SCENES][i % dataset.SHARD_SCENES] for i in chosen]
        pixels = torch.from_numpy(np.stack(chosen_pictures)).to(device)
        target, where = wanted[chosen].to(device), places[chosen].to(device)
        pixels, where = _worn(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0, where, rng)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16 or device.type == "cuda"):
            maps = judge.features(pixels)
        found, pointed = (judge.log_likelihoods(maps.float(), target, centres) for centres in (None, where))
        loss = -(found + pointed).sum(dim=1).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimiser.step()
        step += 1
        spent_s = before_s + clock() - started
        if step % 200 == 0:
            logger.info("judge step %d, %.0f s: loss %.3f", step, spent_s, float(loss.detach()))
        if spent_s - saved_s > 60 or spent_s >= budget_s:
            state = {"judge": judge.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "spent_s": spent_s}
            torch.save(state, state_path.with_suffix(".tmp"))
            state_path.with_suffix(".tmp").replace(state_path)
            saved_s = spent_s
    judge.save(judge_path(work_dir), {"steps": str(step), "scenes": str(len(wanted))})
    logger.info("judge: %d steps of %d pictures out of %d", step, options.batch, len(wanted))
    return judge_path(work_dir)


def _scenes(folder: Path, size_px: int, judge: Judge) -> tuple[list[np.ndarray], torch.Tensor, torch.Tensor]:
    """Return shards of pictures, left on disk until they are looked at, int64 labels and float32 centres."""
    paths = dataset.shards(folder, size_px)
    if not paths:
        raise FileNotFoundError(f"no scenes for a judge in {folder}")
    planner = Planner(dataset.known(folder))
    wanted = [labels(planner.plan(seed), judge.numbers) for path in paths for seed in dataset.seeds_of(path)]
    centres = np.concatenate([np.load(dataset.centres_path(path)) for path in paths])
    return [np.load(path, mmap_mode="r") for path in paths], torch.tensor(wanted), torch.from_numpy(centres)


def _worn(pixels: torch.Tensor, centres: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror, blur and roughen pictures at random, as those of a model are less clean than composites."""
    if rng.random() < 0.5:
        pixels, centres = pixels.flip(-1), torch.stack([1 - centres[..., 0], centres[..., 1]], dim=-1)
    if rng.random() < 0.4:
        side = int(pixels.shape[-1] * rng.uniform(0.4, 0.9))
        small = functional.interpolate(pixels, size=side, mode="area")
        pixels = functional.interpolate(small, size=pixels.shape[-1], mode="bilinear")
    if rng.random() < 0.4:
        pixels = pixels + torch.randn_like(pixels) * 0.06
    return pixels.contiguous(memory_format=torch.channels_last), centres


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the settings of a judge's training to a command line."""
    usual = JudgeOptions()
    parser.add_argument("--minutes", type=float, default=usual.minutes, help="of training in all (%(default)s)")
    parser.add_argument("--scenes", type=int, default=usual.scenes, help="to learn from (%(default)s)")
    parser.add_argument("--workers", type=int, default=usual.workers, help="processes that compose (%(default)s)")
    parser.add_argument("--batch", type=int, default=usual.batch, help="pictures a step (%(default)s)")
    parser.add_argument("--width", type=int, default=usual.size.width, help="channels of the network (%(default)s)")
    parser.add_argument("--size-px", type=int, default=usual.size.size_px, help="of its pictures (%(default)s)")
    parser.add_argument("--bf16", action="store_true", help="on a CPU: faster if lscpu names avx512_bf16 or amx_bf16")
    parser.add_argument("--device", default=usual.device, help="cpu or cuda (%(default)s)")


def run(args: argparse.Namespace) -> Path:
    """Compose and train by the settings of ``add_options``."""
    options = JudgeOptions(
        minutes=args.minutes,
        scenes=args.scenes,
        workers=args.workers,
        batch=args.batch,
        size=JudgeSize(args.width, args.size_px),
        device=args.device,
        bf16=args.bf16,
    )
    compose(args.work_dir, options)
    return train(args.work_dir, options)


def main() -> None:
    """Train a judge on a machine that may have nothing but this folder and PyTorch."""
    parser = argparse.ArgumentParser(prog="python -m services.trainer.storybook.judge_training", description=__doc__)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--archive", type=Path, help="what the `pack` command wrote")
    parser.add_argument("--out", type=Path, help="folder to copy the judge to")
    add_options(parser)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.archive is not None:
        parts.unpack(args.archive, args.work_dir)
    path = run(args)
    if args.out is not None:
        (args.out / path.name).write_bytes(path.read_bytes())


if __name__ == "__main__":
    main()
