"""The one training loop: what every recipe's training has in common.

A recipe gives a ``Learner`` (a module whose ``forward(batch)`` is the loss) and ``Examples``; ``fit`` does the rest.
Everything random in a step comes from (seed, step), and which examples it sees likewise, so a run that was killed and
resumed is bit for bit the run that was not (on a device whose kernels are deterministic).
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader

from narrative.errors import Cancelled, DatasetInvalid, DiskFull, InvalidParameter, TrainingDiverged
from services.trainer import checkpoint
from services.trainer.batches import BatchPlan, Examples, stream_seed
from services.trainer.config import RecipeConfig
from services.trainer.ending import batch_plan, is_out_of_patience, num_steps
from services.trainer.learner import Learner, Outcome
from services.trainer.optimizers import make_optimizer, rate_factor
from services.trainer.progress import Progress
from services.trainer.resume import (
    checkpoint_to_resume,
    checkpoints_dir,
    read_checkpoint,
    refuse_a_later_step,
    refuse_another_training,
)


def make_accelerator(config: RecipeConfig) -> Accelerator:
    """Sets precision, device and threads of this process.

    Raises:
        InvalidParameter: CUDA was asked for and is not there, or fp16 on a CPU.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InvalidParameter("this machine has no CUDA device that torch can use", field="device")
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    # Accelerate keeps one state a process; a training starts from its own.
    AcceleratorState._reset_state(reset_partial_state="RANK" not in os.environ)
    accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=config.device == "cpu")
    if config.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate would leave it out without a word.
        raise InvalidParameter("fp16 needs a GPU; set mixed_precision to no or bf16", field="mixed_precision")
    return accelerator


def fit(
    learner: Learner,
    examples: Examples,
    config: RecipeConfig,
    *,
    accelerator: Accelerator,
    run_dir: Path,
    progress: Progress,
    identity: Mapping[str, Any],
) -> Outcome:
    """Trains to the end, to an early stop, or until SIGTERM or SIGINT.

    Where ``ema_decay`` is set, the learner ends with the averaged weights.

    Args:
        run_dir: where checkpoints, samples and logs go.
        identity: digests of data and base; together with ``config.identity()`` it says which checkpoints fit.

    A checkpoint is also saved at the end: what comes after may fail, and the same command then need not train again.

    Raises:
        Cancelled: stopped by a signal; a checkpoint was saved.
        TrainingDiverged: the loss became NaN or infinite.
        DatasetInvalid: there are no examples.
        Conflict: the checkpoint to go on from belongs to another training, or is beyond this one's end.
        DiskFull: a checkpoint on the way could not be written.
    """
    if not len(examples):
        raise DatasetInvalid("the data set has no examples")
    run = _Run(learner, examples, config, accelerator, run_dir, progress, {**config.identity(), **identity})
    stop = checkpoint.StopRequest()
    try:
        return run.to_the_end(stop)
    finally:
        stop.restore()
        progress.end()
        accelerator.free_memory()


class _Run:
    def __init__(
        self,
        learner: Learner,
        examples: Examples,
        config: RecipeConfig,
        accelerator: Accelerator,
        run_dir: Path,
        progress: Progress,
        identity: dict[str, Any],
    ) -> None:
        self.learner, self.examples, self.config = learner, examples, config
        self.accelerator, self.run_dir, self.progress = accelerator, run_dir, progress
        # Which examples make a step depends on it.
        self.identity = {**identity, "num_processes": accelerator.num_processes}
        self.plan = batch_plan(config, len(examples), accelerator)
        self.num_steps = num_steps(config, self.plan)
        learner.to(accelerator.device)
        self.trained = {name: value for name, value in learner.named_parameters() if value.requires_grad}
        optimizer = make_optimizer(learner.parameter_groups(config.learning_rate), config)
        self.module, self.optimizer = accelerator.prepare(learner, optimizer)
        self.ema = checkpoint.Ema(self.trained, config.ema_decay) if config.ema_decay else None
        self.step = self.saved_step = 0
        self.epoch_losses: list[float] = []
        self.last_epoch_loss: float | None = None
        self.best_loss, self.epochs_without_better = math.inf, 0

    def to_the_end(self, stop: checkpoint.StopRequest) -> Outcome:
        config = self.config
        self._resume()
        if self.accelerator.is_main_process:
            self.progress.begin(self.step, self.run_dir / "tensorboard" if config.tensorboard else None)
        loader = iter(
            DataLoader(
                cast("Any", self.examples),
                batch_sampler=cast("Any", _Passes(self.plan, self.step)),
                collate_fn=self.examples.collate,
                num_workers=config.dataloader_num_workers,
                pin_memory=self.accelerator.device.type == "cuda",
            )
        )
        self.module.train()
        stopped_early = is_out_of_patience(config, self.epochs_without_better)
        while self.step < self.num_steps and not stopped_early:
            loss, stopping = self._advance(loader, stop)
            epoch_ends = self.step % self.plan.steps_per_epoch == 0
            self._report(loss)
            if epoch_ends:
                stopped_early = self._end_epoch()
            if config.sample_steps and self.step % config.sample_steps == 0:
                self._sample()
            if self.step % config.checkpointing_steps == 0 or stopping:
                self._save()
            if stopping and self.step < self.num_steps:
                raise Cancelled(
                    f"stopped at step {self.step} of {self.num_steps}; run the same command again to go on from there"
                )
        self._save_at_the_end()
        return self._finish(stopped_early)

    def _advance(self, loader: Any, stop: checkpoint.StopRequest) -> tuple[float, bool]:
        """Takes one step; returns its loss and whether any process was asked to stop."""
        config, passes = self.config, self.plan.passes(self.step)
        factor = rate_factor(config, self.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        num_examples = sum(map(len, passes))
        total = torch.zeros((), device=self.accelerator.device)
        for number, draws in enumerate(passes):
            batch = _to_device(next(loader), self.accelerator.device)
            torch.manual_seed(stream_seed(config.seed, "step", self.step, number, self.accelerator.process_index))
            share = len(draws) / num_examples
            if number < len(passes) - 1:
                with self.accelerator.no_sync(self.module):
                    loss = self.module(batch) * share
                    self.accelerator.backward(loss)
            else:
                loss = self.module(batch) * share
                self.accelerator.backward(loss)
            total += loss.detach()
        told = torch.stack([total.float(), torch.tensor(float(bool(stop)), device=total.device)])
        mean_loss, asked = cast("torch.Tensor", self.accelerator.reduce(told, "mean")).tolist()
        if not math.isfinite(mean_loss):
            raise TrainingDiverged(
                f"the loss became {mean_loss} at step {self.step + 1}; lower learning_rate (now "
                f"{config.learning_rate:g}) or set mixed_precision to no or bf16 (now {config.mixed_precision})",
                field="learning_rate",
            )
        if config.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.trained.values(), config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.trained)
        self.step += 1
        return mean_loss, asked > 0

    def _report(self, loss: float) -> None:
        self.epoch_losses.append(loss)
        if self.accelerator.is_main_process:
            rates = {
                group.get("name", "all"): group["lr"] * group.get("d", 1.0) for group in self.optimizer.param_groups
            }
            show = self.step % self.config.log_steps == 0 or self.step == self.num_steps
            self.progress.step(self.step, self.num_steps, self._epoch(), loss, rates, show=show)

    def _end_epoch(self) -> bool:
        """Closes the books of an epoch; says whether to stop early."""
        loss = sum(self.epoch_losses) / len(self.epoch_losses)
        self.last_epoch_loss, self.epoch_losses = loss, []
        self.module.eval()
        with torch.no_grad():
            validation = self.learner.validation_loss()
        self.module.train()
        if self.accelerator.is_main_process:
            self.progress.epoch(self._epoch(), self.step, loss, validation)
        score = loss if validation is None else validation
        if score < self.best_loss - self.config.early_stop_min_delta:
            self.best_loss, self.epochs_without_better = score, 0
        else:
            self.epochs_without_better += 1
        return is_out_of_patience(self.config, self.epochs_without_better)

    def _sample(self) -> None:
        if not self.accelerator.is_main_process:
            return
        before = {name: value.detach().clone() for name, value in self.trained.items()} if self.ema else {}
        self._load_averages()
        self.module.eval()
        with torch.no_grad():
            samples = self.learner.sample(self.step)
        self.module.train()
        self._copy(before)
        folder = self.run_dir / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        for name, sample in samples.items():
            stem = f"step-{self.step:06d}-{name}"
            if isinstance(sample, str):
                path = folder / f"{stem}.txt"
                path.write_text(f"{sample}\n", encoding="utf-8")
                self.progress.note(f"sample: {path}\n{sample}", step=self.step)
            else:
                path = folder / f"{stem}.png"
                sample.save(path)
                self.progress.files("sample", [path], self.step)

    def _finish(self, stopped_early: bool) -> Outcome:
        if self.epoch_losses:
            self.last_epoch_loss = sum(self.epoch_losses) / len(self.epoch_losses)
        self._load_averages()
        self.accelerator.unwrap_model(self.module, keep_fp32_wrapper=False)
        self.module.eval()
        return Outcome(self.step, self._epoch(), self.last_epoch_loss, stopped_early)

    def _epoch(self) -> int:
        """The epoch that the last step belonged to, from 1; 0 before the first."""
        return -(-self.step // self.plan.steps_per_epoch)

    def _save_at_the_end(self) -> None:
        """What has been trained is worth a result, even where there is no room for a checkpoint of it."""
        if self.saved_step == self.step:
            return
        try:
            self._save()
        except DiskFull as error:
            self.progress.note(f"{error.message}; going on to the result without it")

    def _save(self) -> None:
        self.saved_step = self.step
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        path = checkpoints_dir(self.run_dir) / f"step-{self.step:08d}.pt"
        state = {
            "step": self.step,
            "identity": self.identity,
            "trained": {name: value.detach() for name, value in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "scaler": scaler.state_dict() if scaler else None,
            "losses": [self.epoch_losses, self.last_epoch_loss, self.best_loss, self.epochs_without_better],
        }
        try:
            checkpoint.save(path, state)
        except OSError as error:
            raise DiskFull(f"checkpoint {path} could not be written: {error.strerror}") from error
        self.progress.files("checkpoint", [path], self.step)
        for old in sorted(path.parent.glob("step-*.pt"))[: -self.config.checkpoints_total_limit]:
            old.unlink()

    def _resume(self) -> None:
        path = checkpoint_to_resume(self.run_dir, self.config.resume_from_checkpoint)
        if path is None:
            return
        state = read_checkpoint(path)
        refuse_another_training(path, state["identity"], self.identity)
        refuse_a_later_step(path, int(state["step"]), self.num_steps)
        self._copy(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
            self.ema.shadow = {name: value.to(self.trained[name].device) for name, value in self.ema.shadow.items()}
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = self.saved_step = int(state["step"])
        self.epoch_losses, self.last_epoch_loss, self.best_loss, self.epochs_without_better = state["losses"]
        self.progress.note(f"going on from {path}", step=self.step)

    @torch.no_grad()
    def _copy(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self.trained[name].copy_(value)

    def _load_averages(self) -> None:
        if self.ema is not None:
            self._copy(self.ema.shadow)


class _Passes:
    """A batch sampler that deals the passes from a step on."""

    def __init__(self, plan: BatchPlan, step: int) -> None:
        self._plan, self._step = plan, step

    def __iter__(self) -> Any:
        return self._plan.from_step(self._step)


def _to_device(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: _to_device(value, device) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(_to_device(value, device) for value in batch)
    return batch
