"""OpenTelemetry traces from the REST call through every gRPC hop; off unless an OTLP endpoint is set."""

from collections.abc import Sequence
from typing import Any

import grpc


def setup_tracing(endpoint: str, process: str) -> bool:
    """Starts exporting spans to ``endpoint``; does nothing where it is empty.

    Returns:
        Whether tracing is on.

    Raises:
        RuntimeError: an endpoint is set, but the ``tracing`` extra is not installed.
    """
    if not endpoint:
        return False
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise RuntimeError("NARRATIVE_OTLP_ENDPOINT is set: pip install 'colorized-narrative[tracing]'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": f"narrative-{process}"}))
    insecure = not endpoint.startswith("https://")
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=insecure)))
    trace.set_tracer_provider(provider)
    return True


def server_interceptors(enabled: bool) -> Sequence[grpc.aio.ServerInterceptor]:
    """Interceptors that continue the caller's trace on the server."""
    if not enabled:
        return ()
    from opentelemetry.instrumentation.grpc import aio_server_interceptor

    return (aio_server_interceptor(),)  # type: ignore[no-untyped-call]


def client_interceptors(enabled: bool) -> Sequence[Any]:
    """Interceptors that hand the current trace on to the server called."""
    if not enabled:
        return ()
    from opentelemetry.instrumentation.grpc import aio_client_interceptors

    return tuple(aio_client_interceptors())  # type: ignore[no-untyped-call]
