"""Groups of settings of the recipes that train on pictures."""

from typing import Any, Literal

from pydantic import Field

from services.trainer.config import RecipeConfig, Settings


class LoraSettings(Settings):
    """Adapter"""

    name: str = Field(
        "adapter",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
        description="Name to ask for it by; without output_dir it is published under this name.",
    )
    rank: int = Field(16, ge=1, description="Rank of the adapter's matrices.")
    lora_alpha: float | None = Field(None, gt=0, description="Scale; the adapter counts alpha/rank. The rank if unset.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Share of an adapter's inputs that is dropped.")
    target_modules: list[str] = Field(
        default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"],
        min_length=1,
        description="Layers of the UNet or transformer that are adapted, by the end of their names.",
    )
    licence: str = Field("", description="Licence of the result, kept in its description.")


class PictureModelSettings(Settings):
    """Base model and pictures"""

    model_id: str = Field("storybook", description="Catalogue id, path of a diffusers folder, or hub repository.")
    resolution: int = Field(512, ge=32, le=4096, multiple_of=8, description="Side of the training pictures, pixels.")
    random_flip: bool = Field(False, description="Mirror every other picture.")
    cache_latents: bool = Field(True, description="Encode pictures once, where cropping is not random.")
    gradient_checkpointing: bool = Field(False, description="Less memory, more time.")
    min_image_px: int = Field(64, ge=1, description="Pictures with a shorter side are too small.")
    sample_prompt: str = Field("", description="What to draw every sample_steps; the training prompt if empty.")


class BadPictureSettings(Settings):
    """Bad pictures"""

    skip_bad_images: bool = Field(False, description="Leave out pictures that cannot be used instead of stopping.")


Crop = Literal["stretch", "centre", "random"]


# Of pictures drawn with an adapter, and what it adds to its base.
METRICS = ("similarity", "clip_i", "clip_t", "dino")
SCORES = tuple(f"{metric}{suffix}" for metric in METRICS for suffix in ("", "_gain"))


class GateSettings(Settings):
    """Gate: publish above set scores only"""

    require: tuple[str, ...] = Field(
        (),
        description="Publish only where these hold, for example similarity>=0.8,similarity_gain>0: scores of pictures "
        "drawn with the adapter against those it learned from; NAME_gain is what it adds to the base.",
    )
    measured_pictures: int = Field(4, ge=1, le=64, description="Pictures that are drawn to be measured.")
    feature_model: str = Field("storybook", description="Model of the score similarity; no weights beside its own.")
    clip_model: str = Field("clip-vit-large-patch14", description="CLIP of clip_i and clip_t.")
    dino_model: str = Field("dino-vits16", description="Vision transformer of dino.")


class AdapterConfig(GateSettings, BadPictureSettings, PictureModelSettings, LoraSettings, RecipeConfig):
    """What all recipes have that train a LoRA adapter on pictures."""

    @property
    def draws(self) -> bool:
        """Whether the base is to draw pictures, for which it needs all its parts."""
        return bool(self.sample_steps or self.require)

    def identity(self) -> dict[str, Any]:
        """As for every recipe; what is asked and said of the result has no part in how it is made."""
        apart = {*GateSettings.model_fields, "name", "licence", "sample_prompt"}
        return {name: value for name, value in super().identity().items() if name not in apart}
