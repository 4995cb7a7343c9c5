"""When a training is over."""

from pathlib import Path

from accelerate import Accelerator

from services.trainer.batches import BatchPlan
from services.trainer.config import RecipeConfig
from services.trainer.resume import checkpoint_to_resume, read_checkpoint


def is_at_its_end(config: RecipeConfig, num_examples: int, accelerator: Accelerator, run_dir: Path) -> bool:
    """Whether ``loop.fit`` would go on from a checkpoint after which there is nothing left to train.

    Raises:
        InvalidParameter: the checkpoint is none, or is not there.
    """
    path = checkpoint_to_resume(run_dir, config.resume_from_checkpoint)
    if path is None:
        return False
    state = read_checkpoint(path, mapped=True)
    *_, epochs_without_better = state["losses"]
    last = num_steps(config, batch_plan(config, num_examples, accelerator))
    return bool(state["step"] >= last) or is_out_of_patience(config, epochs_without_better)


def batch_plan(config: RecipeConfig, num_examples: int, accelerator: Accelerator) -> BatchPlan:
    """Which examples make each batch of this process."""
    return BatchPlan(
        num_examples,
        config.train_batch_size,
        config.gradient_accumulation_steps,
        config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )


def num_steps(config: RecipeConfig, plan: BatchPlan) -> int:
    """Steps that a training takes unless it stops early."""
    return config.max_train_steps or config.num_train_epochs * plan.steps_per_epoch


def is_out_of_patience(config: RecipeConfig, epochs_without_better: int) -> bool:
    """Whether a training stops early."""
    return 0 < config.early_stop_patience <= epochs_without_better
