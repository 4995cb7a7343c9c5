"""One trace from the REST call through the gRPC hop, as an OTLP collector sees it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from narrative.ports import free_ports


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps (process, span) of everything that is exported to it."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.aio.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            names = [item.value.string_value for item in resource.resource.attributes if item.key == "service.name"]
            self.spans += [(names[0], span) for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def processes_by_trace(self) -> list[set[str]]:
        traces: dict[bytes, set[str]] = {}
        for process, span in self.spans:
            traces.setdefault(span.trace_id, set()).add(process)
        return list(traces.values())


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield collector, f"http://127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def gateway_url(collector: tuple[Collector, str], tmp_path: Path) -> AsyncIterator[str]:
    """A gateway and a diffusion service with its fake engine, both traced, in processes of their own."""
    ports = dict(zip(("diffusion", "gateway"), free_ports(2), strict=True))
    environment = os.environ | {
        "NARRATIVE_DATA_DIR": str(tmp_path),
        "NARRATIVE_OTLP_ENDPOINT": collector[1],
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "NARRATIVE_DIFFUSION__ENGINE": "fake",
        "NARRATIVE_DIFFUSION__PORT": str(ports["diffusion"]),
        "NARRATIVE_GATEWAY__PORT": str(ports["gateway"]),
        "NARRATIVE_GATEWAY__DIFFUSION_TARGET": f"127.0.0.1:{ports['diffusion']}",
    }
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, env=environment, stderr=asyncio.subprocess.DEVNULL
        )
        for module in ("services.diffusion", "gateway")
    ]
    url = f"http://127.0.0.1:{ports['gateway']}"
    try:
        async with httpx.AsyncClient() as client, asyncio.timeout(60):
            while not await _drawn(client, url):
                await asyncio.sleep(0.1)
        yield url
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            await process.wait()


async def _drawn(client: httpx.AsyncClient, url: str) -> bool:
    try:
        response = await client.post(f"{url}/v1/images/generations", json={"prompt": "a boat"})
    except httpx.ConnectError:
        return False
    return response.status_code == httpx.codes.OK


async def test_a_rest_call_and_its_grpc_hop_are_one_trace(collector: tuple[Collector, str], gateway_url: str) -> None:
    async with asyncio.timeout(20):
        while {"narrative-gateway", "narrative-diffusion"} not in collector[0].processes_by_trace():
            await asyncio.sleep(0.05)
