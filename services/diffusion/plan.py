"""From a request to the pictures it asks for: every field checked, every default filled in."""

import contextlib
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import PIL.Image

from narrative.errors import InvalidParameter, ModelNotFound, NotFound
from services.diffusion.adapters import AdapterCache
from services.diffusion.engine import Adapter, ImageRequest
from services.diffusion.model_folder import ModelCard
from services.diffusion.settings import DiffusionSettings
from services.diffusion.upload import decode_picture

MAX_IMAGES = 8
MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class DrawSettings:
    """Everything that pictures drawn together must share."""

    model: str
    width: int
    height: int
    num_steps: int
    guidance_scale: float
    image_guidance_scale: float
    scheduler: str
    adapters: tuple[Adapter, ...]
    # SDXL and FLUX compute something else where there is no negative prompt than for an empty one.
    has_negative_prompt: bool


@dataclass(frozen=True)
class Picture:
    """One picture to draw."""

    settings: DrawSettings
    index: int
    prompt: str
    negative_prompt: str
    seed: int
    source: PIL.Image.Image | None = field(default=None, repr=False, compare=False)
    later_frames: tuple[PIL.Image.Image, ...] = field(default=(), repr=False, compare=False)


class OtherModels(Protocol):
    """Models that may come and go while the service runs."""

    def card(self, name: str) -> ModelCard:
        """Raises ModelNotFound or InvalidParameter where there is no such model."""

    def licences(self) -> Mapping[str, str]:
        """Those there are now, by name."""


class Planner:
    """Checks requests against the models, the adapters and the limits of the settings.

    Args:
        published: models that are not among ``cards``.
    """

    def __init__(
        self,
        cards: Sequence[ModelCard],
        adapters: AdapterCache,
        limits: DiffusionSettings,
        published: OtherModels | None = None,
    ) -> None:
        self._cards = {card.id: card for card in cards}
        self._adapters = adapters
        self._limits = limits
        self._published = published

    def plan(self, request: ImageRequest) -> list[Picture]:
        """The pictures of a request, in order.

        Raises:
            InvalidParameter, ImageUndecodable, ModelNotFound, AdapterNotFound: see ``DiffusionEngine.submit``.
        """
        limits = self._limits
        card = self._card(request)
        self._check_text("prompt", request.prompt)
        if not request.prompt.strip():
            raise InvalidParameter("the prompt is empty; say what is to be seen", field="prompt")
        self._check_text("negative_prompt", request.negative_prompt)
        num_images = _in_range("num_images", request.num_images or 1, 1, MAX_IMAGES)
        num_steps = _in_range("num_inference_steps", request.num_steps or card.num_steps, 1, limits.max_steps)
        guidance_scale = self._guidance("guidance_scale", request.guidance_scale, card.guidance_scale, 0.0)
        image_guidance_scale = self._guidance(
            "image_guidance_scale", request.image_guidance_scale, card.image_guidance_scale, 1.0
        )
        scheduler = self._scheduler(request.scheduler, card)
        adapters = self._check_adapters(request.adapters, card)
        seed = secrets.randbelow(2**32) if request.seed is None else _in_range("seed", request.seed, 0, MAX_SEED)
        frames = self._frames(request, card)
        width, height = self._size(request, card, frames[0] if frames else None)
        settings = DrawSettings(
            model=card.id,
            width=width,
            height=height,
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            # Only editing looks at it; elsewhere it must not keep pictures from being drawn together.
            image_guidance_scale=image_guidance_scale if card.task == "image-editing" else 0.0,
            scheduler=scheduler,
            adapters=adapters,
            has_negative_prompt=bool(request.negative_prompt.strip()),
        )
        if frames and frames[0].size != (width, height):
            frames = [frame.resize((width, height), PIL.Image.Resampling.LANCZOS) for frame in frames]
        return [
            Picture(
                settings,
                index,
                request.prompt,
                request.negative_prompt,
                (seed + index) % (MAX_SEED + 1),
                frames[0] if frames else None,
                tuple(frames[1:]),
            )
            for index in range(num_images)
        ]

    def _frames(self, request: ImageRequest, card: ModelCard) -> list[PIL.Image.Image]:
        """The pictures to edit, decoded."""
        if request.source is None:
            return []
        files = (request.source, *request.later_frames)
        if len(files) != card.num_frames:
            takes = "one picture" if card.num_frames == 1 else f"the {card.num_frames} frames of a video"
            raise InvalidParameter(f"model {card.id!r} edits {takes}; {len(files)} came", field="image")
        frames = [decode_picture(file, self._limits.max_upload_px // len(files)) for file in files]
        if len({frame.size for frame in frames}) > 1:
            raise InvalidParameter("the frames are not all of one size", field="image")
        return frames

    def _card(self, request: ImageRequest) -> ModelCard:
        task = "text-to-image" if request.source is None else "image-editing"
        able = [card for card in self._cards.values() if card.task == task]
        if not request.model:
            if not able:
                names = [*self._cards, *(self._published.licences() if self._published else ())]
                raise ModelNotFound(
                    f"no model for {task} is configured as the default; name one of {', '.join(names)}", field="model"
                )
            return able[0]
        card = self._cards.get(request.model) or self._other_card(request.model)
        if card.task != task:
            known = ", ".join(other.id for other in able) or "none"
            raise InvalidParameter(
                f"model {card.id!r} is for {card.task}, not for {task}; for that there are: {known}", field="model"
            )
        return card

    def _other_card(self, name: str) -> ModelCard:
        names = list(self._cards)
        if self._published is not None:
            # What is no name at all is no model either.
            with contextlib.suppress(NotFound, InvalidParameter):
                return self._published.card(name)
            names += self._published.licences()
        raise ModelNotFound(f"no model {name[:80]!r}; there are {', '.join(names)}", field="model")

    def _check_text(self, name: str, text: str) -> None:
        if len(text) > self._limits.max_prompt_chars:
            raise InvalidParameter(
                f"the {name} has {len(text)} characters; at most {self._limits.max_prompt_chars} are accepted",
                field=name,
            )

    def _guidance(self, name: str, value: float | None, default: float, low: float) -> float:
        value = default if value is None else value
        high = self._limits.max_guidance_scale
        if not (math.isfinite(value) and low <= value <= high):
            raise InvalidParameter(f"{name} is {value}; {low} to {high} is accepted", field=name)
        return float(value)

    def _scheduler(self, name: str, card: ModelCard) -> str:
        plain = name.removesuffix("Scheduler") or card.scheduler
        if plain not in card.schedulers:
            raise InvalidParameter(
                f"scheduler {name[:80]!r} cannot be used with model {card.id!r}; accepted are "
                f"{', '.join(card.schedulers)}",
                field="scheduler",
            )
        return plain

    def _check_adapters(self, adapters: tuple[Adapter, ...], card: ModelCard) -> tuple[Adapter, ...]:
        limits = self._limits
        if len(adapters) > limits.max_adapters:
            raise InvalidParameter(
                f"{len(adapters)} adapters; at most {limits.max_adapters} are accepted", field="adapters"
            )
        if len({adapter.name for adapter in adapters}) < len(adapters):
            raise InvalidParameter("an adapter is named twice; name each once", field="adapters")
        for adapter in adapters:
            for weight in (adapter.weight, adapter.text_encoder_weight):
                if not (math.isfinite(weight) and abs(weight) <= limits.max_adapter_weight):
                    raise InvalidParameter(
                        f"weight {weight} of adapter {adapter.name!r}; {-limits.max_adapter_weight} to "
                        f"{limits.max_adapter_weight} is accepted",
                        field="adapters",
                    )
            self._adapters.check_fits(adapter.name, card)
        # An adapter without weight changes nothing, and order does not matter: fewer distinct sets, larger batches.
        used = [adapter for adapter in adapters if adapter.weight or adapter.text_encoder_weight]
        return tuple(sorted(used, key=lambda adapter: adapter.name))

    def _size(self, request: ImageRequest, card: ModelCard, source: PIL.Image.Image | None) -> tuple[int, int]:
        multiple = card.size_multiple
        width, height = card.width, card.height
        low, high = self._limits.min_size_px, min(self._limits.max_size_px, card.max_side)
        if source is not None:
            # A picture that is too large is made smaller: nobody who has one knows how far a model goes.
            scale = min(1.0, high / max(source.size))
            width, height = (max(multiple, round(side * scale / multiple) * multiple) for side in source.size)
        sides = {"width": request.width or width, "height": request.height or height}
        for name, side in sides.items():
            if side % multiple or not low <= side <= high:
                raise InvalidParameter(
                    f"{name} is {side}; multiples of {multiple} from {low} to {high} pixels are accepted by model "
                    f"{card.id!r}",
                    field=name,
                )
        return sides["width"], sides["height"]


def _in_range(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise InvalidParameter(f"{name} is {value}; {low} to {high} is accepted", field=name)
    return value
