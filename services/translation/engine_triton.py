"""Translation by an engine that runs on a Triton Inference Server: ``deploy/triton/models/translation``."""

import json
import threading
from collections.abc import Sequence

from narrative.runtime.triton import TritonModel, leases_of
from narrative.v1 import translation_pb2
from services.translation.engine import EngineInfo
from services.translation.settings import TranslationSettings


class TritonEngine:
    """Sends all texts of a call in one request; Triton puts requests of several calls together.

    Args:
        settings: the server's address and the model's name there.
    """

    def __init__(self, settings: TranslationSettings) -> None:
        self._settings = settings
        self._model = TritonModel(settings)
        self.info = EngineInfo("triton", (), ())

    def load(self) -> None:
        """Connects, has the model loaded, and asks what it reads and writes.

        Raises:
            ServiceUnavailable: the server is not there, or cannot load the model.
            ModelNotFound: its repository has no such model.
        """
        self._model.open(leases_of(self._model, self._settings, "translation", self._settings.max_workers))
        about = json.loads(
            self._model.call({"REQUEST": translation_pb2.TranslateRequest().SerializeToString()}, "ENGINE")
        )
        self.info = EngineInfo("triton", tuple(about["sources"]), tuple(about["targets"]), about["licence"])

    def close(self) -> None:
        self._model.close()

    def translate(
        self, texts: Sequence[str], source: str, target: str, cancelled: threading.Event | None = None
    ) -> list[str]:
        """Errors are those of the engine that runs there, and those of ``TritonModel.call``."""
        request = translation_pb2.TranslateRequest(texts=texts, source_language=source, target_language=target)
        answer = self._model.call({"REQUEST": request.SerializeToString()}, "RESPONSE", cancelled)
        return list(translation_pb2.TranslateResponse.FromString(answer).texts)
