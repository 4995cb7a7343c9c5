"""Settings of the DreamBooth recipe."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from services.trainer.config import Settings
from services.trainer.pictures.config import AdapterConfig, Crop


class InstanceSettings(Settings):
    """Pictures of the subject: one of instance_data_dir and dataset_name"""

    instance_data_dir: Path | None = Field(None, description="Folder of pictures.")
    dataset_name: str = Field("", description="Data set of the hub, or a folder that `datasets` reads.")
    dataset_config_name: str | None = Field(None, description="Configuration of the data set, where it has several.")
    dataset_split: str = Field("train", description="Split of the data set.")
    image_column: str = Field("image", description="Column of the pictures.")
    caption_column: str | None = Field(
        None, description="Captions' column, or key in metadata.jsonl (there 'text' if unset); '' for no captions."
    )
    instance_prompt: str = Field("", description="Prompt of pictures without a caption, with a rare word in it.")
    crop: Crop = Field("centre", description="How pictures become squares; random crops cannot be computed once.")


class PriorSettings(Settings):
    """Prior preservation"""

    with_prior_preservation: bool = Field(False, description="Learn pictures of the class beside the subject.")
    class_data_root: Path | None = Field(None, description="Folder of class pictures; in the run's folder if unset.")
    class_prompt: str = Field("", description="Prompt of the class, without the rare word.")
    num_class_images: int = Field(100, ge=1, description="Class pictures; the base draws those that are missing.")
    sample_batch_size: int = Field(4, ge=1, description="Class pictures drawn together.")
    prior_loss_weight: float = Field(1.0, ge=0, description="What the loss of class pictures counts.")


class TextEncoderSettings(Settings):
    """Text encoder"""

    train_text_encoder: bool = Field(False, description="Adapt the CLIP text encoder too; for SDXL both of them.")
    text_encoder_lr: float | None = Field(None, gt=0, description="Its learning rate; learning_rate if unset.")


class Config(InstanceSettings, PriorSettings, TextEncoderSettings, AdapterConfig):
    """DreamBooth"""

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        if bool(self.instance_data_dir) == bool(self.dataset_name):
            raise ValueError("give one of instance_data_dir and dataset_name")
        if self.with_prior_preservation and not self.class_prompt:
            raise ValueError("prior preservation needs class_prompt, for example 'a fox'")
        if self.text_encoder_lr is not None and not self.train_text_encoder:
            raise ValueError("text_encoder_lr says nothing without train_text_encoder")
        if self.optimizer == "prodigy" and self.text_encoder_lr not in (None, self.learning_rate):
            raise ValueError("prodigy finds one rate for everything that is trained; leave text_encoder_lr out")
        return self
