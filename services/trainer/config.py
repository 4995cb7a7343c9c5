"""Settings of a training: the classes every recipe's configuration is built of.

A configuration comes from a YAML or JSON file, from JSON, or from flags (``services.trainer.arguments``); names may be
written ``train_batch_size``, ``train-batch-size`` or ``trainBatchSize``. This module is quick to import: no torch.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel


class Settings(BaseModel):
    """Base of all groups of settings; the first line of a group's docstring is its heading in ``--help``."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )


class LoopSettings(Settings):
    """Training"""

    seed: int = Field(123, ge=0, description="Seed of everything random; the same seed gives the same weights.")
    train_batch_size: int = Field(1, ge=1, description="Examples in one pass, per process.")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Passes whose gradients make one step.")
    learning_rate: float = Field(1e-4, gt=0, description="Learning rate.")
    num_train_epochs: int = Field(100, ge=1, description="Times to go through the data.")
    max_train_steps: int | None = Field(None, ge=1, description="Steps in all; where set, epochs do not count.")
    lr_scheduler: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="How the learning rate goes on after the warm-up: as it is, or down to 0 at the end."
    )
    lr_warmup_steps: int = Field(0, ge=0, description="Steps over which the learning rate rises from 0.")
    optimizer: Literal["adamw", "prodigy"] = Field("adamw", description="AdamW, or Prodigy, which finds its own rate.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment, for both optimizers.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Decay of the second moment, for both optimizers.")
    adam_epsilon: float = Field(1e-8, gt=0, description="Keeps the division finite, for both optimizers.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay, decoupled from the gradient.")
    prodigy_beta3: float | None = Field(None, gt=0, lt=1, description="Decay of Prodigy's estimate; sqrt(beta2).")
    prodigy_use_bias_correction: bool = Field(True, description="Adam's bias correction in Prodigy.")
    prodigy_safeguard_warmup: bool = Field(True, description="Keep the warm-up out of Prodigy's estimate.")
    max_grad_norm: float = Field(1.0, ge=0, description="Longer gradients are shortened to this; 0 for never.")
    mixed_precision: Literal["no", "fp16", "bf16"] = Field("no", description="Number format of the computation.")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="Average the weights with this decay and keep the average.")
    early_stop_patience: int = Field(0, ge=0, description="Epochs without a better loss before stopping; 0 for never.")
    early_stop_min_delta: float = Field(0.0, ge=0, description="How much lower a loss must be to count as better.")

    # Prodigy's step size is a multiple of its own estimate, so its learning rate belongs near 1.
    prodigy_learning_rate: ClassVar[float] = 1.0

    @model_validator(mode="before")
    @classmethod
    def rate_of_prodigy(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Prodigy starts from 1 unless told otherwise: the default of AdamW would keep it from moving."""
        if values.get("optimizer") == "prodigy" and not values.keys() & {"learning_rate", "learningRate"}:
            return {**values, "learning_rate": cls.prodigy_learning_rate}
        return values


class RunSettings(Settings):
    """Run"""

    output_dir: Path | None = Field(None, description="Folder of the result; an earlier result there is replaced.")
    run_dir: Path | None = Field(None, description="Folder of checkpoints, samples and logs; OUTPUT_DIR.run if unset.")
    resume_from_checkpoint: str = Field(
        "latest", description="'latest' goes on where a killed run stopped, 'never' begins anew, or a checkpoint file."
    )
    checkpointing_steps: int = Field(500, ge=1, description="Steps from checkpoint to checkpoint.")
    checkpoints_total_limit: int = Field(2, ge=1, description="Checkpoints kept; the oldest go first.")
    keep_checkpoints: bool = Field(False, description="Keep checkpoints after a run that went to its end.")
    log_steps: int = Field(10, ge=1, description="Steps from one line of progress to the next.")
    sample_steps: int = Field(0, ge=0, description="Steps from samples to samples; 0 for none.")
    tensorboard: bool = Field(True, description="Write TensorBoard logs into the run's folder.")
    progress: Literal["text", "json"] = Field("text", description="Progress as lines for people, or as JSON lines.")
    dataloader_num_workers: int = Field(0, ge=0, le=64, description="Processes that read data; 0 reads in between.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute; auto takes CUDA if it works.")
    num_threads: int = Field(0, ge=0, description="CPU threads; 0 leaves it to torch.")


class RecipeConfig(LoopSettings, RunSettings):
    """Base of a recipe's configuration: the loop's settings and the run's; a recipe adds groups of its own."""

    def identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be gone on from; how long to train may change."""
        return self.model_dump(
            mode="json",
            exclude={*RunSettings.model_fields, "num_train_epochs", "max_train_steps", "early_stop_patience"},
        )
