"""The engines of ``services.translation`` on Triton's Python backend; settings are those of the service."""

import json
from dataclasses import asdict

from narrative.errors import InvalidParameter, NarrativeError
from narrative.runtime.logging import configure_logging
from narrative.runtime.triton_backend import answer, failure, read_bytes, take_device, wants
from narrative.v1 import translation_pb2
from services.translation.engine import EngineSet
from services.translation.servicer import make_engine
from services.translation.settings import TranslationSettings
from services.translation.together import Asked, translate_together


class TritonPythonModel:
    """One instance: every engine that the settings name."""

    def initialize(self, args):
        settings = TranslationSettings(device=take_device(args), residency_target="")
        configure_logging(settings.common, args["model_name"])
        if "triton" in settings.engines:
            raise InvalidParameter("NARRATIVE_TRANSLATION__ENGINES of a Triton server must name what runs on it")
        self._engines = EngineSet([make_engine(name, settings) for name in settings.engines], settings.default_engine)
        self._engines.load()
        self._about = json.dumps(asdict(self._engines.get("").info)).encode()

    def execute(self, requests):
        try:
            asked = [_read(request) for request in requests]
            translated = translate_together(self._engines, asked)
            return [self._answer(request, texts) for request, texts in zip(requests, translated, strict=True)]
        # A model that lets an exception out answers nobody.
        except Exception as error:
            return [failure(error) for _ in requests]

    def finalize(self):
        self._engines.close()

    def _answer(self, request, texts):
        if isinstance(texts, NarrativeError):
            return failure(texts)
        tensors = {"RESPONSE": translation_pb2.TranslateResponse(texts=texts).SerializeToString()}
        if wants(request, "ENGINE"):
            tensors["ENGINE"] = self._about
        return answer(**tensors)


def _read(request):
    message = translation_pb2.TranslateRequest.FromString(read_bytes(request, "REQUEST"))
    return Asked(tuple(message.texts), message.source_language, message.target_language, message.engine)
