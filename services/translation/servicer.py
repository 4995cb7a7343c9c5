"""The contract of the translation service: checks a request, hands it to an engine, answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import grpc

from narrative.errors import InvalidParameter
from narrative.runtime.executor import BoundedExecutor
from narrative.runtime.server import Service
from narrative.v1 import common_pb2, translation_pb2, translation_pb2_grpc
from services.translation.engine import IDENTITY, EngineSet, TranslationEngine, translate_texts
from services.translation.settings import TranslationSettings

Context = grpc.aio.ServicerContext[translation_pb2.TranslateRequest, translation_pb2.TranslateResponse]


class TranslationServicer(translation_pb2_grpc.TranslationServiceServicer):
    def __init__(self, engines: EngineSet, settings: TranslationSettings) -> None:
        self._engines = engines
        self._settings = settings
        self._executor = BoundedExecutor("translation", settings.max_workers, settings.max_queue)

    async def Translate(
        self, request: translation_pb2.TranslateRequest, context: Context
    ) -> translation_pb2.TranslateResponse:
        self._check(request)
        engine, texts = self._engines.get(request.engine), list(request.texts)
        source, target = request.source_language, request.target_language
        if source == target:
            return translation_pb2.TranslateResponse(texts=texts, engine=IDENTITY)
        engine.info.check(source, target)
        translated = await self._executor.run_while_wanted(
            lambda cancelled: translate_texts(engine, texts, source, target, cancelled)
        )
        return translation_pb2.TranslateResponse(texts=translated, engine=engine.info.name)

    def _check(self, request: translation_pb2.TranslateRequest) -> None:
        for field in ("source_language", "target_language"):
            code = getattr(request, field)
            # Whisper knows languages without a code of two letters: "haw", "yue".
            if not re.fullmatch("[a-z]{2,3}", code):
                raise InvalidParameter(
                    f"{field} must be an ISO 639-1 code such as 'ru', or one of ISO 639-3, not {code[:20]!r}",
                    field=field,
                )
        _check_sizes(request.texts, self._settings)


def _check_sizes(texts: Sequence[str], settings: TranslationSettings) -> None:
    if len(texts) > settings.max_texts:
        raise InvalidParameter(f"{len(texts)} texts in one request; at most {settings.max_texts}", field="texts")
    for index, text in enumerate(texts):
        if len(text) > settings.max_text_chars:
            message = f"text {index} has {len(text)} characters; at most {settings.max_text_chars}"
            raise InvalidParameter(message, field="texts")


def make_engine(name: str, settings: TranslationSettings) -> TranslationEngine:
    """The engine of that name; its backend is imported only here."""
    if name == "gloss":
        from services.translation.engine_gloss import GlossEngine

        return GlossEngine(settings.gloss_min_similarity, settings.encoder_threads)
    if name == "ctranslate2":
        from services.translation.engine_ctranslate2 import CTranslate2Engine

        return CTranslate2Engine(settings)
    if name == "llm":
        from services.translation.engine_llm import LlmEngine

        return LlmEngine(settings)
    if name == "triton":
        from services.translation.engine_triton import TritonEngine

        return TritonEngine(settings)
    from services.translation.engine_fake import FakeEngine

    return FakeEngine(settings.fake_seconds_per_text)


def make_service(settings: TranslationSettings) -> Service:
    """The service with the engines its settings name."""
    engines = EngineSet([make_engine(name, settings) for name in settings.engines], settings.default_engine)
    servicer = TranslationServicer(engines, settings)

    def models() -> Iterable[common_pb2.Model]:
        for engine in engines:
            info = engine.info
            yield common_pb2.Model(
                id=info.name,
                task=common_pb2.TASK_TRANSLATION,
                engine=info.name,
                licence=info.licence,
                languages=info.sources,
                is_default=info.name == engines.default,
            )

    return Service(
        name="translation",
        full_name="narrative.v1.TranslationService",
        engine=engines,
        register=lambda server: translation_pb2_grpc.add_TranslationServiceServicer_to_server(servicer, server),
        models=models,
    )
