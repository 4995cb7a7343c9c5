"""Settings of the style recipe."""

from pathlib import Path

from pydantic import Field

from services.trainer.pictures.config import AdapterConfig


class Config(AdapterConfig):
    """Style"""

    dataset_dir: Path = Field(description="Folder of the palette: the pictures that have the style.")
    prompt: str = Field("artist_seal", min_length=1, description="The one training prompt: the word of the style.")
    name: str = Field(
        "artist_seal",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
        description="Name to ask for it by; without output_dir it is published under this name.",
    )
    model_id: str = Field(
        "CompVis/stable-diffusion-v1-4",
        description="Catalogue id (storybook), path of a diffusers folder, or hub repository.",
    )
    resolution: int = Field(256, ge=32, le=4096, multiple_of=8, description="Side of the training pictures, pixels.")
    random_flip: bool = Field(True, description="Mirror every other picture.")
    gradient_accumulation_steps: int = Field(4, ge=1, description="Passes whose gradients make one step.")
    lora_alpha: float | None = Field(32, gt=0, description="Scale; the adapter counts alpha/rank. The rank if unset.")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="Share of an adapter's inputs that is dropped.")
