"""A fake for tests of what is around the engine: real checks, queue, batches and PNG files; no model.

It draws a square of one colour, made from prompt and seed, after a fixed time a batch. Never a default.
"""

import hashlib
import threading
import time
from collections.abc import Generator
from pathlib import Path

import PIL.Image

from narrative.errors import InvalidInput
from narrative.objects import Objects
from services.diffusion.adapters import AdapterCache
from services.diffusion.blocking import generate
from services.diffusion.drawing_thread import Batch, DrawingThread, Drawn, Order
from services.diffusion.engine import AdapterFile, Emit, Image, ImageRequest, ModelInfo, Step
from services.diffusion.model_folder import EPSILON_SCHEDULERS, ModelCard
from services.diffusion.plan import Planner
from services.diffusion.png import encode_png
from services.diffusion.settings import DiffusionSettings


class FakeEngine:
    """Engine without a model; ``settings.fake_batch_s`` is the time a batch takes, spread evenly over its steps."""

    def __init__(self, settings: DiffusionSettings) -> None:
        self._settings = settings
        self._cards = [_card("fake", "text-to-image"), _card("fake-edit", "image-editing")]
        self._planner = Planner(
            self._cards, AdapterCache(Objects(settings.objects_url), settings.adapters_folder), settings
        )
        self._thread = DrawingThread(self._draw, settings)
        self._closed = threading.Event()

    def load(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.close()

    def models(self) -> list[ModelInfo]:
        return [ModelInfo(card.id, card.task, "fake", "", is_default=True) for card in self._cards]

    def check(self, request: ImageRequest) -> None:
        self._planner.plan(request)

    def submit(self, request: ImageRequest, emit: Emit) -> Order:
        return self._thread.submit(self._planner.plan(request), emit)

    def generate(self, request: ImageRequest) -> Generator[Step | Image, None, None]:
        return generate(self, request)

    def publish_adapter(self, asked: AdapterFile) -> None:
        raise InvalidInput("the fake engine has no model that an adapter could fit")

    def kohya_adapter(self, name: str) -> str:
        raise InvalidInput("the fake engine has no model that an adapter could fit")

    def _draw(self, batch: Batch) -> None:
        started_s = time.monotonic()
        positions = range(len(batch.pictures))
        settings = batch.pictures[0].settings
        for step in range(1, settings.num_steps + 1):
            if not any(map(batch.wanted, positions)):
                return
            self._closed.wait(self._settings.fake_batch_s / settings.num_steps)
            batch.step_done(step)
        for position, picture in enumerate(batch.pictures):
            colour = hashlib.sha256(f"{picture.prompt}\0{picture.seed}".encode()).digest()
            drawn = PIL.Image.new("RGB", (settings.width, settings.height), (colour[0], colour[1], colour[2]))
            png = encode_png(drawn, {"model": settings.model, "prompt": picture.prompt, "seed": picture.seed})
            batch.finished(position, Drawn(png, time.monotonic() - started_s))


def _card(model_id: str, task: str) -> ModelCard:
    return ModelCard(
        id=model_id,
        path=Path(),
        family="sd" if task == "text-to-image" else "pix2pix",
        task="text-to-image" if task == "text-to-image" else "image-editing",
        denoiser="unet",
        width=64,
        height=64,
        max_side=512,
        size_multiple=8,
        num_steps=4,
        guidance_scale=7.5,
        image_guidance_scale=1.5,
        scheduler="DDIM",
        schedulers=EPSILON_SCHEDULERS,
    )
