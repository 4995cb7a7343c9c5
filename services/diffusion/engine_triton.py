"""The engine on a Triton Inference Server: ``deploy/triton/models/diffusion`` runs ``DiffusersEngine`` there."""

import threading
from collections.abc import Generator

from narrative.catalogue import Catalogue
from narrative.errors import QueueFull
from narrative.objects import Objects
from narrative.runtime.metrics import RUNNING
from narrative.runtime.triton import TritonModel, leases_of
from narrative.runtime.triton_stream import End, Stream
from narrative.v1 import diffusion_pb2
from services.diffusion.adapters import AdapterCache
from services.diffusion.blocking import generate
from services.diffusion.cards import infos, read_cards
from services.diffusion.engine import AdapterFile, Emit, Finished, Image, ImageRequest, ModelInfo, Step
from services.diffusion.exchange import AdapterExchange
from services.diffusion.messages import read_event, write_options
from services.diffusion.model_folder import ModelCard
from services.diffusion.plan import Planner
from services.diffusion.settings import DiffusionSettings


class TritonEngine:
    """Checks requests and sends them, up to a limit; Triton has pictures of equal settings drawn together.

    What can be asked for is read here, from files: model folders and adapters as the server has them, too.

    Args:
        settings: those of the engine on the server, and where that is.
    """

    def __init__(self, settings: DiffusionSettings, catalogue: Catalogue | None = None) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._objects = Objects(settings.objects_url)
        self._cards: list[ModelCard] = []
        self._planner: Planner | None = None
        self._model = TritonModel(settings)
        self._pictures = 0
        self._lock = threading.Lock()

    def load(self) -> None:
        """Connects, and has the model loaded.

        Raises:
            WeightsError, ModelNotFound: a model of the settings is not here, or Triton has none of that name.
            ServiceUnavailable: the server is not there, or cannot load the model.
        """
        settings = self._settings
        self._cards = read_cards(settings, self._catalogue)
        self._planner = Planner(self._cards, AdapterCache(self._objects, settings.adapters_folder), settings)
        self._model.open(leases_of(self._model, settings, "diffusion", settings.max_queue + settings.max_batch_size))

    def close(self) -> None:
        self._model.close()

    def models(self) -> list[ModelInfo]:
        return infos(self._cards, "triton")

    def check(self, request: ImageRequest) -> None:
        assert self._planner is not None, "load() comes first"
        self._planner.plan(request)

    def submit(self, request: ImageRequest, emit: Emit) -> Stream:
        """See ``DiffusionEngine``; that the server is away comes as the error of ``Finished``."""
        assert self._planner is not None, "load() comes first"
        unfinished = num_pictures = len(self._planner.plan(request))
        tensors = {"REQUEST": write_options(request).SerializeToString()}
        if request.source is not None:
            tensors["SOURCE"] = request.source

        def tell(answer: bytes | End) -> bool:
            nonlocal unfinished
            if isinstance(answer, End):
                self._count(-num_pictures)
                emit(Finished(answer.error))
            else:
                event = read_event(diffusion_pb2.GenerateImagesResponse.FromString(answer))
                if isinstance(event, Step) and event.step == event.num_steps:
                    unfinished -= 1
                emit(event)
            return not unfinished

        self._count(num_pictures)
        return self._model.stream(tensors, "EVENT", tell)

    def generate(self, request: ImageRequest) -> Generator[Step | Image, None, None]:
        return generate(self, request)

    def publish_adapter(self, asked: AdapterFile) -> None:
        self._exchange().publish(asked)

    def kohya_adapter(self, name: str) -> str:
        return self._exchange().in_kohya_form(name)

    def _exchange(self) -> AdapterExchange:
        return AdapterExchange(self._objects, self._cards, self._settings.max_adapter_bytes)

    def _count(self, num_pictures: int) -> None:
        """Adds to the pictures that Triton works on or keeps waiting; Triton itself would take any number."""
        most = self._settings.max_queue + self._settings.max_batch_size
        with self._lock:
            # A request may be larger than a small limit; it then has the queue to itself.
            if num_pictures > 0 and self._pictures and self._pictures + num_pictures > most:
                raise QueueFull(
                    f"{self._pictures} pictures are with Triton already, and at most {most} may be; try again later",
                    retry_after_s=2.0,
                )
            self._pictures += num_pictures
            RUNNING.labels("diffusion").set(self._pictures)
