"""Settings of the recipe."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from narrative.registry import SPEECH_MODELS
from services.trainer.config import RecipeConfig, Settings
from services.trainer.speech.names import checked_name


class SpeechDataSettings(Settings):
    """Data"""

    dataset: str = Field(description="Folder, manifest or dataset with audio and text.")
    dataset_split: str = Field("train", description="Split of a dataset to read.")
    audio_column: str = Field("audio", description="Column of the audio, where there are columns.")
    text_column: str = Field("text", description="Column of the text, where there are columns.")
    language: str = Field("ru", description="Language spoken, as Whisper calls it.")
    min_duration_s: float = Field(0.5, ge=0, description="Shorter clips are dropped.")
    max_duration_s: float = Field(30.0, gt=0, le=30, description="Longer clips are dropped; Whisper hears 30 s.")
    max_characters_per_s: float = Field(
        30.0, gt=0, description="Clips with more text than can be said in their time are dropped."
    )
    validation_share: float = Field(0.1, gt=0, lt=1, description="Share of the sentences kept for validation.")
    validation_clips: int = Field(64, ge=1, description="Most validation clips that are transcribed, before and after.")


class AdapterSettings(Settings):
    """Adapter"""

    base_model: str = Field(
        "whisper-base", description="Whisper to adapt: catalogue id, or path in transformers or CTranslate2 form."
    )
    rank: int = Field(16, ge=1, description="Rank of the LoRA matrices.")
    lora_alpha: int = Field(32, ge=1, description="Scale of the adapter; it is divided by the rank.")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="Dropout before the LoRA matrices.")
    target_modules: tuple[str, ...] = Field(("q_proj", "v_proj"), min_length=1, description="Layers that get LoRA.")
    gradient_checkpointing: bool = Field(False, description="Compute activations twice to hold fewer of them.")


class PublishSettings(Settings):
    """Publishing"""

    published_kind: ClassVar[str] = SPEECH_MODELS

    publish_as: str = Field("", description="Publish the merged model under this name; empty for not at all.")
    publish_type: Literal["float32", "float16", "int8"] = Field("float16", description="Type of the published weights.")
    require: tuple[str, ...] = Field(
        (), description="Publish only where these hold on the validation clips, for example wer<=0.2."
    )

    @field_validator("publish_as")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        return checked_name(name) if name else name


class Config(SpeechDataSettings, AdapterSettings, PublishSettings, RecipeConfig):
    """Whisper LoRA"""

    output_dir: Path = Field(description="Folder of the adapter; an earlier result there is replaced.")
    learning_rate: float = Field(5e-4, gt=0, description="Learning rate.")
    train_batch_size: int = Field(4, ge=1, description="Clips in one pass, per process.")
    num_train_epochs: int = Field(3, ge=1, description="Times to go through the data.")
    lr_scheduler: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="How the learning rate goes on."
    )
    lr_warmup_steps: int = Field(50, ge=0, description="Steps over which the learning rate rises from 0.")

    def identity(self) -> dict[str, Any]:
        """As for every recipe; what becomes of the result, or is measured, has no part in how it is made."""
        apart = {*PublishSettings.model_fields, "validation_clips"}
        return {name: value for name, value in super().identity().items() if name not in apart}
