"""The bootstrap every gRPC service shares: listen, load, serve, drain."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from narrative.errors import NarrativeError
from narrative.runtime.interceptors import CallInterceptor
from narrative.runtime.logging import configure_logging
from narrative.runtime.metrics import MODEL_LOAD
from narrative.runtime.tracing import server_interceptors, setup_tracing
from narrative.settings import ServiceSettings
from narrative.v1 import common_pb2, common_pb2_grpc

log = structlog.get_logger()

# Answers SERVING as long as the event loop turns, whatever the models do: what a liveness probe should ask for.
LIVENESS = "liveness"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Engine(Protocol):
    """The lifecycle every engine has; both calls block and run on a thread of their own."""

    def load(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Service:
    """What a process serves.

    Attributes:
        name: short name, "asr"; used in logs, metrics and traces.
        full_name: name in the contract, "narrative.v1.AsrService".
        engine: loaded before the first call is let through, closed after the last.
        register: adds the servicer to the server.
        models: lists what the engine can be asked for.
    """

    name: str
    full_name: str
    engine: Engine
    register: Callable[[grpc.aio.Server], None]
    models: Callable[[], Iterable[common_pb2.Model]]


class ModelServicer(common_pb2_grpc.ModelServiceServicer):
    """Answers ``ListModels`` from the service's own list."""

    def __init__(self, models: Callable[[], Iterable[common_pb2.Model]]) -> None:
        self._models = models

    async def ListModels(
        self, request: common_pb2.ListModelsRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> common_pb2.ListModelsResponse:
        # Some ask the object store for what was trained meanwhile.
        models = await asyncio.to_thread(lambda: list(self._models()))
        return common_pb2.ListModelsResponse(models=models)


class ServiceServer:
    """A gRPC server around one service; ``serve`` is what a process calls, tests use the parts.

    Health is NOT_SERVING until the engine is loaded and again from the moment the server is told to stop.
    """

    def __init__(self, service: Service, settings: ServiceSettings, *, tracing: bool = False) -> None:
        self._service = service
        self._settings = settings
        self._ready = False
        self._health = health_aio.HealthServicer()
        interceptor = CallInterceptor(service.name, settings.max_deadline_s, lambda: self._ready)
        self._server = grpc.aio.server(
            interceptors=[*server_interceptors(tracing), interceptor],
            options=[
                ("grpc.max_connection_age_ms", int(settings.max_connection_age_s * 1000)),
                ("grpc.max_connection_age_grace_ms", int(settings.max_deadline_s * 1000)),
                # Clients ping every 30 s (narrative.runtime.channel); by default a server hangs up on such a client in
                # the middle of a call that is silent for two minutes.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                # Two replicas must never share a port by accident: half of the calls would go astray.
                ("grpc.so_reuseport", 0),
            ],
        )
        service.register(self._server)
        common_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(service.models), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (service.full_name, "narrative.v1.ModelService", "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> int:
        """Listens without being ready, and returns the port."""
        await self._set_health(NOT_SERVING)
        await self._health.set(LIVENESS, SERVING)
        port = self._server.add_insecure_port(f"{self._settings.host}:{self._settings.port}")
        await self._server.start()
        return port

    async def load(self) -> None:
        """Loads the engine on a thread, then lets calls through."""
        started = time.perf_counter()
        await asyncio.to_thread(self._service.engine.load)
        seconds = time.perf_counter() - started
        MODEL_LOAD.labels(self._service.name).set(seconds)
        self._ready = True
        await self._set_health(SERVING)
        log.info("ready", load_s=round(seconds, 2))

    async def stop(self) -> None:
        """Turns new calls away, lets running ones finish for ``drain_s``, and closes the engine."""
        await self._set_health(NOT_SERVING)
        await self._server.stop(self._settings.drain_s)
        await asyncio.to_thread(self._service.engine.close)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", self._service.full_name):
            await self._health.set(name, status)


def serve(service: Service, settings: ServiceSettings) -> None:
    """Runs a service until SIGTERM or SIGINT; what every ``services/<name>/__main__.py`` ends with."""
    configure_logging(settings.common, service.name)
    tracing = setup_tracing(settings.common.otlp_endpoint, service.name)
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.host)
    asyncio.run(_serve(service, settings, tracing))


async def _serve(service: Service, settings: ServiceSettings, tracing: bool) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopping.set)
    server = ServiceServer(service, settings, tracing=tracing)
    port = await server.start()
    log.info("listening", host=settings.host, port=port)
    loading = asyncio.create_task(server.load())
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({loading, stop}, return_when=asyncio.FIRST_COMPLETED)
    failure = loading.exception() if loading.done() else None
    if failure is None:
        # What was made so far stays: to look through it for garbage again and again would hold up calls.
        gc.freeze()
        await stop
        # Told to stop before it was ready: how loading ends is of no interest any more.
        loading.cancel()
    log.info("draining", drain_s=settings.drain_s)
    await server.stop()
    if isinstance(failure, NarrativeError):
        log.error("cannot start", error=type(failure).__name__, detail=str(failure))
        raise SystemExit(1)
    if failure is not None:
        raise failure
