"""Engine on diffusers: Stable Diffusion 1.x and XL, FLUX and InstructPix2Pix, with LoRA adapters per request."""

import collections
import os
import time
from collections.abc import Generator

import PIL.Image
import structlog
import torch

from narrative.catalogue import Catalogue
from narrative.objects import Objects
from narrative.runtime.residency import ResidencyClient
from services.diffusion.adapters import AdapterCache
from services.diffusion.blocking import generate
from services.diffusion.cards import infos, read_cards
from services.diffusion.drawing_thread import Batch, DrawingThread, Order
from services.diffusion.engine import AdapterFile, Emit, Image, ImageRequest, ModelInfo, Step
from services.diffusion.exchange import AdapterExchange
from services.diffusion.model_folder import ModelCard
from services.diffusion.pipelines import LoadedModel, quiet_libraries
from services.diffusion.plan import Planner
from services.diffusion.png import encode_png
from services.diffusion.published_models import PublishedModels
from services.diffusion.settings import DiffusionSettings

log = structlog.get_logger()
_ENGINE = "diffusers"


class DiffusersEngine:
    """Holds every configured model in memory and draws batch after batch on one thread."""

    def __init__(self, settings: DiffusionSettings, catalogue: Catalogue | None = None) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._objects = Objects(settings.objects_url)
        self._adapters = AdapterCache(self._objects, settings.adapters_folder)
        self._thread = DrawingThread(self._draw, settings)
        self._cards: list[ModelCard] = []
        self._loaded: dict[str, LoadedModel] = {}
        self._planner: Planner | None = None
        self._residency: ResidencyClient | None = None
        self._published = PublishedModels(
            self._objects,
            settings.published_models_folder,
            settings.max_published_models,
            self._add_published,
            self._remove_published,
        )

    def load(self) -> None:
        torch.set_num_threads(self._settings.num_threads or os.cpu_count() or 1)
        if self._settings.deterministic:
            # cuBLAS is deterministic only with a workspace of fixed size, which it reads from the environment.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        quiet_libraries()
        self._cards = read_cards(self._settings, self._catalogue)
        for card in self._cards:
            self._loaded[card.id] = LoadedModel(card, self._adapters, self._settings)
        if self._settings.residency_target:
            self._residency = self._attach(self._settings)
        self._planner = Planner(self._cards, self._adapters, self._settings, self._published)
        self._thread.start()
        for card in self._cards:
            self._warm_up(card)

    def close(self) -> None:
        if self._residency is not None:
            self._residency.close()
        self._thread.close()
        for model in (*self._loaded.values(), *self._published.loaded()):
            if model.weights is not None:
                model.weights.close()
        self._loaded.clear()

    def models(self) -> list[ModelInfo]:
        configured = infos(self._cards, _ENGINE)
        names = {info.id for info in configured}
        published = [
            ModelInfo(name, "image-editing", _ENGINE, licence, is_default=False)
            for name, licence in self._published.licences().items()
            if name not in names
        ]
        return [*configured, *published]

    def check(self, request: ImageRequest) -> None:
        assert self._planner is not None, "load() comes first"
        self._planner.plan(request)

    def submit(self, request: ImageRequest, emit: Emit) -> Order:
        assert self._planner is not None, "load() comes first"
        return self._thread.submit(self._planner.plan(request), emit)

    def generate(self, request: ImageRequest) -> Generator[Step | Image, None, None]:
        return generate(self, request)

    def publish_adapter(self, asked: AdapterFile) -> None:
        self._exchange().publish(asked)

    def kohya_adapter(self, name: str) -> str:
        return self._exchange().in_kohya_form(name)

    def _exchange(self) -> AdapterExchange:
        return AdapterExchange(self._objects, self._cards, self._settings.max_adapter_bytes)

    def _draw(self, batch: Batch) -> None:
        name = batch.pictures[0].settings.model
        model = self._loaded.get(name) or self._published.open(name)
        if self._residency is None:
            model.draw(batch)
            return
        with self._residency.lease(model.card.id, cancelled=batch.abandoned):
            model.draw(batch)

    def _add_published(self, card: ModelCard) -> LoadedModel:
        model = LoadedModel(card, self._adapters, self._settings)
        if self._residency is not None:
            self._hand_over(self._residency, model)
        log.info("published model loaded", model=card.id, version=card.digest)
        return model

    def _remove_published(self, model: LoadedModel) -> None:
        if self._residency is not None:
            self._residency.remove(model.card.id)
        if model.weights is not None:
            model.weights.close()

    def _hand_over(self, residency: ResidencyClient, model: LoadedModel) -> None:
        """Puts a model into the books of the residency service."""
        assert model.weights is not None
        num_bytes = model.weights.num_bytes + int(self._settings.residency_working_bytes)
        residency.add(model.card.id, num_bytes, model.weights)

    def _attach(self, settings: DiffusionSettings) -> ResidencyClient:
        residency = ResidencyClient(
            settings.residency_target, "diffusion", settings.residency_wait_s, settings.residency_priority
        )
        for model in self._loaded.values():
            self._hand_over(residency, model)
        residency.start()
        return residency

    def _warm_up(self, card: ModelCard) -> None:
        """Two steps at the model's own size: kernels are chosen and memory is taken before the first request."""
        source = None
        if card.task == "image-editing":
            source = encode_png(PIL.Image.new("RGB", (card.width, card.height)), {})
        request = ImageRequest("warm-up", model=card.id, seed=0, num_steps=2, source=source)
        started_s = time.monotonic()
        collections.deque(self.generate(request), maxlen=0)
        log.info("warm", model=card.id, warm_up_s=round(time.monotonic() - started_s, 2))
