"""Runs the speech service: ``python -m services.asr``."""

import grpc

from narrative.runtime.server import Service, serve
from narrative.settings import read_settings
from narrative.v1 import asr_pb2_grpc
from services.asr.engine import AsrEngine, Diarizer
from services.asr.servicer import AsrServicer, list_models
from services.asr.settings import AsrSettings


def build_diarizer(settings: AsrSettings) -> Diarizer:
    """The diarizer that the settings name."""
    if settings.diarizer == "pyannote":
        from services.asr.diarizer_pyannote import PyannoteDiarizer

        return PyannoteDiarizer(settings)
    from services.asr.diarizer_embedded import EmbeddedDiarizer

    return EmbeddedDiarizer(settings)


def build_engine(settings: AsrSettings) -> AsrEngine:
    """The engine that the settings name."""
    if settings.engine == "fake":
        from services.asr.engine_fake import FakeEngine

        return FakeEngine(settings)
    if settings.engine == "triton":
        from services.asr.engine_triton import TritonEngine

        return TritonEngine(settings, build_diarizer(settings).info)
    from services.asr.engine_whisper import WhisperEngine

    return WhisperEngine(settings, build_diarizer(settings))


def build_service(settings: AsrSettings) -> Service:
    """The engine behind its servicer."""
    engine = build_engine(settings)
    servicer = AsrServicer(engine, settings)

    def register(server: grpc.aio.Server) -> None:
        asr_pb2_grpc.add_AsrServiceServicer_to_server(servicer, server)

    return Service("asr", "narrative.v1.AsrService", engine, register, lambda: list_models(engine))


if __name__ == "__main__":
    settings = read_settings(AsrSettings)
    serve(build_service(settings), settings)
