"""Runs the residency service: ``python -m services.residency``."""

from narrative.runtime.server import Service, serve
from narrative.settings import read_settings
from narrative.v1 import residency_pb2_grpc
from services.residency.coordinator import Coordinator
from services.residency.servicer import ResidencyServicer
from services.residency.settings import ResidencySettings


def make_service(settings: ResidencySettings) -> Service:
    """The service, not loaded yet."""
    coordinator = Coordinator(settings)
    servicer = ResidencyServicer(coordinator, settings)
    return Service(
        name="residency",
        full_name="narrative.v1.ResidencyService",
        engine=coordinator,
        register=lambda server: residency_pb2_grpc.add_ResidencyServiceServicer_to_server(servicer, server),
        models=list,
    )


if __name__ == "__main__":
    settings = read_settings(ResidencySettings)
    serve(make_service(settings), settings)
