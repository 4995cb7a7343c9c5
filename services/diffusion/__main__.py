"""Runs the diffusion service: settings, engine, serve."""

from narrative.runtime.server import Service, serve
from narrative.settings import read_settings
from narrative.v1 import diffusion_pb2_grpc
from services.diffusion.engine import DiffusionEngine
from services.diffusion.servicer import DiffusionServicer, models
from services.diffusion.settings import DiffusionSettings


def make_engine(settings: DiffusionSettings) -> DiffusionEngine:
    """The engine that the settings name."""
    if settings.engine == "fake":
        from services.diffusion.engine_fake import FakeEngine

        return FakeEngine(settings)
    if settings.engine == "triton":
        from services.diffusion.engine_triton import TritonEngine

        return TritonEngine(settings)
    if settings.engine == "vllm-omni":
        from services.diffusion.engine_omni import OmniEngine

        return OmniEngine(settings)
    from services.diffusion.engine_diffusers import DiffusersEngine

    return DiffusersEngine(settings)


def make_service(settings: DiffusionSettings) -> Service:
    """The service, not loaded yet."""
    engine = make_engine(settings)
    servicer = DiffusionServicer(engine, settings.max_upload_bytes)
    return Service(
        name="diffusion",
        full_name="narrative.v1.DiffusionService",
        engine=engine,
        register=lambda server: diffusion_pb2_grpc.add_DiffusionServiceServicer_to_server(servicer, server),
        models=lambda: models(engine),
    )


def main() -> None:
    """Entry point of ``python -m services.diffusion``."""
    settings = read_settings(DiffusionSettings)
    serve(make_service(settings), settings)


if __name__ == "__main__":
    main()
