"""The bootstrap every service shares, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from narrative.errors import DeadlineExceeded, InvalidParameter, NarrativeError, ServiceUnavailable
from narrative.runtime.channel import open_channel, rpc_errors
from narrative.runtime.server import LIVENESS, Service, ServiceServer
from narrative.settings import ServiceSettings
from narrative.v1 import common_pb2, common_pb2_grpc, translation_pb2, translation_pb2_grpc

NAME = "narrative.v1.TranslationService"


class Engine:
    closed = False

    def load(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class Servicer(translation_pb2_grpc.TranslationServiceServicer):
    """Does what the engine field of a request says."""

    def __init__(self) -> None:
        self.started = asyncio.Event()

    async def Translate(
        self, request: translation_pb2.TranslateRequest, context: grpc.aio.ServicerContext
    ) -> translation_pb2.TranslateResponse:
        self.started.set()
        if request.engine == "refuse":
            raise InvalidParameter("no such engine", field="engine")
        if request.engine == "break":
            raise ZeroDivisionError("secret detail")
        if request.engine == "linger":
            await asyncio.sleep(0.3)
        if request.engine == "hang":
            await asyncio.sleep(60)
        return translation_pb2.TranslateResponse(texts=request.texts, engine="echo")


@dataclass
class Running:
    server: ServiceServer
    channel: grpc.aio.Channel
    engine: Engine = field(default_factory=Engine)
    servicer: Servicer = field(default_factory=Servicer)

    async def translate(self, engine: str, timeout_s: float = 5) -> translation_pb2.TranslateResponse:
        stub = translation_pb2_grpc.TranslationServiceStub(self.channel)
        with rpc_errors("translation"):
            return await stub.Translate(translation_pb2.TranslateRequest(texts=["a"], engine=engine), timeout=timeout_s)

    async def health(self, name: str = "") -> int:
        answer = await health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(service=name))
        return int(answer.status)


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    engine, servicer = Engine(), Servicer()
    service = Service(
        "translation",
        NAME,
        engine,
        lambda server: translation_pb2_grpc.add_TranslationServiceServicer_to_server(servicer, server),
        lambda: [common_pb2.Model(id="echo", engine="echo")],
    )
    server = ServiceServer(service, ServiceSettings(drain_s=5, max_deadline_s=10))
    port = await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        yield Running(server, channel, engine, servicer)
        await server.stop()


async def test_nothing_is_served_before_the_engine_is_loaded(running: Running) -> None:
    assert await running.health(NAME) == health_pb2.HealthCheckResponse.NOT_SERVING
    assert await running.health(LIVENESS) == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(ServiceUnavailable, match="loading"):
        await running.translate("")

    await running.server.load()

    assert await running.health(NAME) == health_pb2.HealthCheckResponse.SERVING
    assert (await running.translate("")).engine == "echo"


async def test_errors_arrive_as_they_were_raised_and_secrets_stay(running: Running) -> None:
    await running.server.load()

    with pytest.raises(InvalidParameter, match="no such engine") as refused:
        await running.translate("refuse")
    with pytest.raises(NarrativeError) as broken:
        await running.translate("break")

    assert refused.value.field == "engine"
    assert "secret" not in broken.value.message
    assert "request id" in broken.value.message


async def test_a_deadline_ends_the_call(running: Running) -> None:
    await running.server.load()

    with pytest.raises(DeadlineExceeded):
        await running.translate("hang", timeout_s=0.2)


async def test_stopping_lets_running_calls_finish_and_turns_new_ones_away(running: Running) -> None:
    await running.server.load()
    call = asyncio.create_task(running.translate("linger"))
    await running.servicer.started.wait()

    await running.server.stop()

    assert (await call).engine == "echo"
    assert running.engine.closed
    with pytest.raises(ServiceUnavailable):
        await running.translate("")


async def test_models_and_reflection_are_there(running: Running) -> None:
    await running.server.load()
    models = await common_pb2_grpc.ModelServiceStub(running.channel).ListModels(common_pb2.ListModelsRequest())
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = reflection_pb2_grpc.ServerReflectionStub(running.channel).ServerReflectionInfo(iter([ask]))

    names = {service.name async for answer in answers for service in answer.list_services_response.service}

    assert [model.id for model in models.models] == ["echo"]
    assert {NAME, "grpc.health.v1.Health"} <= names
