"""Settings of the pix2pix recipe."""

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from narrative.registry import NAME, PICTURE_MODELS
from services.trainer.config import RecipeConfig, Settings
from services.trainer.pictures.config import PictureModelSettings


class EditSettings(Settings):
    """Edits: one of data_dir and dataset_name"""

    data_dir: Path | None = Field(None, description="Folder with metadata.jsonl; of videos: metadata.json, or built.")
    dataset_name: str = Field("", description="Data set of the hub, or a folder that `datasets` reads.")
    dataset_split: str = Field("train", description="Split of the data set.")
    input_column: str = Field("input_image", description="Column, or key in metadata.jsonl, of the original.")
    prompt_column: str = Field("edit_prompt", description="Column or key of the instruction.")
    edited_column: str = Field("edited_image", description="Column or key of the edited picture.")
    validation_data_dir: Path | None = Field(
        None, description="Edits that are held out, a folder like data_dir; their loss is told after every epoch."
    )
    num_frames: int = Field(1, ge=1, le=64, description="Frames of the original; the UNet gets 4 channels for each.")
    conditioning_dropout_prob: float = Field(
        0.05, ge=0, le=1 / 3, description="Share of examples without instruction, without original, and without both."
    )


class PublishSettings(Settings):
    """Publishing"""

    published_kind: ClassVar[str] = PICTURE_MODELS

    publish_as: str = Field(
        "",
        pattern=rf"^({NAME.pattern})?$",
        description="Name under which a running ensemble offers the model at once; empty for not at all.",
    )


class Config(PublishSettings, EditSettings, PictureModelSettings, RecipeConfig):
    """InstructPix2Pix"""

    resolution: int = Field(256, ge=32, le=4096, multiple_of=8, description="Side of the training pictures, pixels.")
    train_batch_size: int = Field(4, ge=1, description="Examples in one pass, per process.")
    gradient_checkpointing: bool = Field(
        True, description="Less memory, more time; a whole UNet with its gradients and AdamW leaves little."
    )
    licence: str = Field("", description="Licence of the result, kept in its description.")

    def identity(self) -> dict[str, Any]:
        """As for every recipe; what becomes or is said of the result, or is held out, is no part of its making."""
        apart = {*PublishSettings.model_fields, "validation_data_dir", "licence", "sample_prompt"}
        return {name: value for name, value in super().identity().items() if name not in apart}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.data_dir) == bool(self.dataset_name):
            raise ValueError("give one of data_dir and dataset_name")
        if self.num_frames > 1 and self.dataset_name:
            raise ValueError("several frames are read from data_dir")
        if self.num_frames > 1 and self.sample_steps:
            raise ValueError("samples are drawn by a pipeline that takes one frame; sample_steps must be 0")
        if self.random_flip:
            raise ValueError("edits cannot be mirrored: an instruction may say left or right")
        if self.output_dir is None:
            raise ValueError("output_dir is needed: the result is a whole model")
        return self
