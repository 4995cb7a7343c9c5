"""From a request to what a vLLM-Omni server is asked: every field checked, refused where that API has none for it.

What a request leaves open is left open, so that the server's own defaults for its model hold.
"""

import io
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from narrative.errors import InvalidParameter, ModelNotFound
from services.diffusion.engine import ImageRequest
from services.diffusion.plan import MAX_IMAGES
from services.diffusion.settings import DiffusionSettings
from services.diffusion.upload import decode_picture

# Bounds of the API itself; those of the settings hold besides.
MAX_STEPS = 200
MAX_GUIDANCE_SCALE = 20.0
MAX_SEED = 2**63 - 1
# Latents of an eighth of the side, in patches of two: true of FLUX, SD3, Qwen-Image and Z-Image.
SIZE_MULTIPLE = 16

Value = str | int | float
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class OmniPicture:
    """One picture to ask for.

    Attributes:
        fields: of the API, but for the picture to edit.
        source: PNG file to edit; None where it is drawn from the prompt alone.
    """

    index: int
    seed: int
    fields: Mapping[str, Value]
    source: bytes | None = field(default=None, repr=False)


def pictures_of(request: ImageRequest, model: str, settings: DiffusionSettings) -> list[OmniPicture]:
    """The pictures of a request, in order; each is asked for alone, so that it has a seed of its own.

    Raises:
        InvalidParameter: a field is out of range, or cannot be had from this engine.
        ModelNotFound: another model than the server's.
        ImageUndecodable: ``source`` is no picture.
    """
    _check_model(request, model, settings)
    _refuse_what_the_api_lacks(request)
    fields: dict[str, Value] = {"model": model, "prompt": _text("prompt", request.prompt, settings), "n": 1}
    if not request.prompt.strip():
        raise InvalidParameter("the prompt is empty; say what is to be seen", field="prompt")
    if negative := _text("negative_prompt", request.negative_prompt, settings):
        fields["negative_prompt"] = negative
    if request.num_steps:
        most = min(settings.max_steps, MAX_STEPS)
        fields["num_inference_steps"] = _within("num_inference_steps", request.num_steps, 1, most)
    if request.guidance_scale is not None:
        most_guidance = min(settings.max_guidance_scale, MAX_GUIDANCE_SCALE)
        fields[settings.omni_guidance] = _within("guidance_scale", request.guidance_scale, 0.0, most_guidance)
    if request.width or request.height:
        fields["size"] = _size(request, settings)
    seed = secrets.randbelow(2**32) if request.seed is None else _within("seed", request.seed, 0, MAX_SEED)
    source = _png(request.source, settings.max_upload_px) if request.source is not None else None
    seeds = [(seed + i) % (MAX_SEED + 1) for i in range(_within("num_images", request.num_images or 1, 1, MAX_IMAGES))]
    return [OmniPicture(i, own, {**fields, "seed": own}, source) for i, own in enumerate(seeds)]


def _check_model(request: ImageRequest, model: str, settings: DiffusionSettings) -> None:
    if request.model not in ("", model):
        raise ModelNotFound(f"no model {request.model[:80]!r}; there is {model}", field="model")
    task = "text-to-image" if request.source is None else "image-editing"
    if task != settings.omni_task:
        raise InvalidParameter(f"model {model!r} is for {settings.omni_task}, not for {task}", field="model")


def _refuse_what_the_api_lacks(request: ImageRequest) -> None:
    if request.adapters:
        raise InvalidParameter("engine vllm-omni draws without adapters; engine diffusers takes them", field="adapters")
    if request.later_frames:
        raise InvalidParameter("engine vllm-omni edits one picture at a time; engine diffusers videos", field="image")
    if request.scheduler:
        raise InvalidParameter("engine vllm-omni takes no scheduler; leave it to the model", field="scheduler")
    if request.image_guidance_scale is not None:
        raise InvalidParameter(
            "engine vllm-omni takes no image_guidance_scale; leave it to the model", field="image_guidance_scale"
        )


def _text(name: str, text: str, settings: DiffusionSettings) -> str:
    if len(text) > settings.max_prompt_chars:
        raise InvalidParameter(
            f"the {name} has {len(text)} characters; at most {settings.max_prompt_chars} are accepted", field=name
        )
    return text


def _size(request: ImageRequest, settings: DiffusionSettings) -> str:
    low, high = settings.min_size_px, settings.max_size_px
    for name, side in (("width", request.width), ("height", request.height)):
        if side % SIZE_MULTIPLE or not low <= side <= high:
            raise InvalidParameter(
                f"{name} is {side}; multiples of {SIZE_MULTIPLE} from {low} to {high} pixels are accepted, width and "
                "height both or neither",
                field=name,
            )
    return f"{request.width}x{request.height}"


def _png(source: bytes, max_px: int) -> bytes:
    file = io.BytesIO()
    decode_picture(source, max_px).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _within(name: str, value: Number, low: Number, high: Number) -> Number:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidParameter(f"{name} is {value}; {low} to {high} is accepted", field=name)
    return value
