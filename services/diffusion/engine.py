"""What a diffusion engine is asked and what it answers; no torch, no gRPC, no protobuf."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Literal, Protocol

Task = Literal["text-to-image", "image-editing"]


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter to draw with.

    Attributes:
        name: name of a published adapter.
        weight: on the UNet or transformer.
        text_encoder_weight: on the text encoders.
    """

    name: str
    weight: float
    text_encoder_weight: float


@dataclass(frozen=True)
class ImageRequest:
    """One request as it came; None, 0 and "" stand for the model's default.

    Attributes:
        seed: picture i is drawn with seed + i; None draws one at random.
        width: pixels.
        height: pixels.
        scheduler: diffusers class name with or without "Scheduler".
        source: picture file to edit (PNG, JPEG or WebP); None draws from the prompt alone.
        later_frames: picture files that follow it, for a model that is shown a video.
    """

    prompt: str
    model: str = ""
    negative_prompt: str = ""
    seed: int | None = None
    num_images: int = 1
    num_steps: int = 0
    guidance_scale: float | None = None
    width: int = 0
    height: int = 0
    scheduler: str = ""
    adapters: tuple[Adapter, ...] = ()
    source: bytes | None = field(default=None, repr=False)
    image_guidance_scale: float | None = None
    later_frames: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class AdapterFile:
    """A LoRA file that is to become an adapter.

    Attributes:
        key: where in the object store it lies.
        base: model it is for; empty for the first that it fits.
        alpha: of a file in peft's own form, which does not hold it; None for every other.
    """

    name: str
    key: str
    base: str = ""
    alpha: float | None = None
    trigger_word: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Step:
    """Denoising step ``step`` (from 1) of ``num_steps`` of picture ``image_index`` (from 0) is done."""

    image_index: int
    step: int
    num_steps: int


@dataclass(frozen=True)
class Image:
    """A finished picture.

    Attributes:
        png: the file; its text chunk "parameters" holds the settings as JSON.
        duration_s: from the start of the work on it to its end, without the wait in the queue.
        batch_size: pictures drawn together, itself included.
    """

    image_index: int
    png: bytes = field(repr=False)
    seed: int
    width: int
    height: int
    duration_s: float
    batch_size: int


@dataclass(frozen=True)
class Finished:
    """The last event of a request: ``error`` says why it failed, None that every picture is done."""

    error: Exception | None = None


Event = Step | Image | Finished
Emit = Callable[[Event], None]


@dataclass(frozen=True)
class ModelInfo:
    """One model the engine can be asked for."""

    id: str
    task: Task
    engine: str
    licence: str
    is_default: bool


class Ticket(Protocol):
    """A request that was accepted."""

    def cancel(self) -> None:
        """Takes the request out of the queue, or stops the work on it at the next step; harmless when it is done."""


class DiffusionEngine(Protocol):
    """Draws pictures; safe to call from many threads once loaded."""

    def load(self) -> None:
        """Loads and warms up every model.

        Raises:
            WeightsError: a model is missing, corrupt or of a kind this engine cannot run.
        """

    def close(self) -> None:
        """Fails what waits, stops what runs and frees the models."""

    def models(self) -> list[ModelInfo]:
        """Models it can be asked for, the default of each task first."""

    def check(self, request: ImageRequest) -> None:
        """Raises what ``submit`` would raise about the request itself, without queueing it."""

    def submit(self, request: ImageRequest, emit: Emit) -> Ticket:
        """Checks a request, queues it and returns at once.

        Args:
            emit: called on the drawing thread with every event, ``Finished`` last.

        Raises:
            InvalidParameter: a field is out of range; says which and what is accepted.
            ImageUndecodable: ``source`` is no picture.
            ModelNotFound: no such model, or none for this task.
            AdapterNotFound: no such adapter; names those there are.
            QueueFull: as many pictures wait as may wait.
        """

    def generate(self, request: ImageRequest) -> Generator[Step | Image, None, None]:
        """Like ``submit``, but blocks and yields; closing the generator cancels the request.

        Raises:
            OutOfMemory: the device has no room for pictures of this size.
        """

    def publish_adapter(self, asked: AdapterFile) -> None:
        """Publishes a LoRA file as an adapter; blocks.

        Raises:
            InvalidInput: it is no plain LoRA in a safetensors file, or fits none of the models.
            ModelNotFound, NotFound: there is no such base, or no such object.
            Conflict: there is an adapter of this name.
            PayloadTooLarge: it is larger than is accepted.
        """

    def kohya_adapter(self, name: str) -> str:
        """Where in the object store an adapter lies in kohya's form; blocks while that is made.

        Raises:
            AdapterNotFound: no such adapter.
            InvalidInput: it cannot be had in this form.
        """
