"""gRPC channels to the services, with balancing, retries where a call is idempotent, and errors given back."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import structlog

from narrative.errors import from_rpc_error
from narrative.runtime.interceptors import REQUEST_ID_KEY

# Every method listed is a pure function of its request, so asking again is harmless.
_IDEMPOTENT = {
    "narrative.v1.ModelService": ["ListModels"],
    "narrative.v1.PromptService": ["NormalizeText", "DescribeSpeaker"],
    "narrative.v1.TranslationService": ["Translate"],
    "narrative.v1.DiffusionService": ["CheckImages", "GenerateImages"],
    "narrative.v1.TrainerService": ["ListRecipes", "CheckTraining"],
}
_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [
                    {"service": service, "method": method}
                    for service, methods in _IDEMPOTENT.items()
                    for method in methods
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)


def open_channel(target: str, interceptors: Sequence[Any] = ()) -> grpc.aio.Channel:
    """Opens a channel that spreads calls over all addresses ``target`` resolves to.

    Args:
        target: gRPC name, for example "dns:///diffusion:50054" or "127.0.0.1:50054".
        interceptors: client interceptors, for example those of ``narrative.runtime.tracing``.
    """
    options = [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.enable_retries", 1),
        # A replica that is added must be found within seconds, not at the next failure.
        ("grpc.dns_min_time_between_resolutions_ms", 5_000),
        ("grpc.keepalive_time_ms", 30_000),
        # A service that comes back must be found within seconds, however long it was away.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    return grpc.aio.insecure_channel(target, options=options, interceptors=list(interceptors))


def call_metadata() -> Sequence[tuple[str, str]]:
    """Metadata that hands the request id of the current context on to the next service."""
    request_id = structlog.contextvars.get_contextvars().get("request_id", "")
    return ((REQUEST_ID_KEY, request_id),) if request_id else ()


@contextmanager
def rpc_errors(service: str) -> Iterator[None]:
    """Turns what a stub raises inside into the NarrativeError that the server raised."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, service) from error
