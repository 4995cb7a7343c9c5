"""What a caller may ask of a narrative; everything that can be refused at once is refused here."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_PROMPT_CHARS = 2000
MAX_PIXELS = 2048

Weight = Annotated[float, Field(ge=-4.0, le=4.0, allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=64, le=MAX_PIXELS, multiple_of=8)]
# Names, never paths: nothing a caller sends may lead through the folders of a service.
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
Name = Annotated[str, Field(max_length=200, pattern=rf"^{_SEGMENT}(/{_SEGMENT})*$")]
NameOrEmpty = Annotated[str, Field(max_length=200, pattern=rf"^({_SEGMENT}(/{_SEGMENT})*)?$")]
Language = Annotated[str, Field(pattern=r"^([a-z]{2,3})?$")]


class AdapterOptions(BaseModel):
    """A LoRA adapter to draw with."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(description="Name in the registry.")
    weight: Weight = Field(1.0, description="Weight on the UNet or transformer, usually 0 to 1.")
    text_encoder_weight: Weight | None = Field(
        None, description="Weight on the text encoders; the same as weight where it is not given."
    )


class DrawingOptions(BaseModel):
    """How to draw; shared by narratives and single pictures."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: NameOrEmpty = Field("", description="Picture model; empty for the default.")
    negative_prompt: str = Field("", max_length=MAX_PROMPT_CHARS, description="What not to draw.")
    seed: int | None = Field(
        None, ge=0, le=2**53 - 1, description="Picture n is drawn with seed + n; made up where it is not given."
    )
    num_inference_steps: int | None = Field(
        None, ge=1, le=200, description="Denoising steps; the model's default where it is not given."
    )
    guidance_scale: float | None = Field(
        None, ge=0.0, le=50.0, allow_inf_nan=False, description="Classifier-free guidance; the model's default else."
    )
    width: Pixels | None = Field(None, description="Pixels, a multiple of 8; the model's default where not given.")
    height: Pixels | None = Field(None, description="Pixels, a multiple of 8; the model's default where not given.")
    scheduler: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_]{0,64}$",
        description='Scheduler class without "Scheduler", for example "DPMSolverMultistep"; empty for the default.',
    )
    adapters: list[AdapterOptions] = Field(default_factory=list, max_length=8, description="LoRA adapters, together.")


class SpeakerOptions(BaseModel):
    """How many speak; shared by narratives and transcriptions."""

    num_speakers: int | None = Field(None, ge=1, le=64, description="Exact number of speakers; estimated otherwise.")
    min_speakers: int | None = Field(None, ge=1, le=64, description="Lower bound of the estimate.")
    max_speakers: int | None = Field(None, ge=1, le=64, description="Upper bound of the estimate.")

    @model_validator(mode="after")
    def _check_speakers(self) -> Self:
        if self.min_speakers and self.max_speakers and self.min_speakers > self.max_speakers:
            raise ValueError("min_speakers is greater than max_speakers")
        if self.num_speakers and (self.min_speakers or self.max_speakers):
            raise ValueError("give num_speakers, or min_speakers and max_speakers, not both")
        return self


class NarrativeOptions(DrawingOptions, SpeakerOptions):
    """Options of a narrative; each has a default, so that {} is a valid request."""

    language: Language = Field("", description="ISO 639-1 code of the language spoken; empty to detect it.")
    word_timestamps: bool = Field(False, description="Keep the words of every segment with their times.")
    temperature: float = Field(
        0.0, ge=0.0, le=1.0, allow_inf_nan=False, description="Sampling temperature of the speech model; 0 is greedy."
    )
    asr_model: NameOrEmpty = Field("", description="Speech model; empty for the default.")
    scene_model: NameOrEmpty = Field("", description="Language model, or its LoRA adapter; empty for the default.")
    style: str = Field("", max_length=200, description="Style of the pictures; chosen from what was said if empty.")
    translation_engine: NameOrEmpty = Field(
        "",
        description='Engine of the translation service; "whisper" for the speech model\'s own; empty for the default.',
    )
    num_images: int = Field(1, ge=1, le=8, description="Pictures for each speaker.")
