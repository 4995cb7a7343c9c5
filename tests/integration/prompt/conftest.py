"""Real processes: llama.cpp with SmolLM2, and the prompt service over gRPC in front of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from narrative.ports import free_port
from narrative.runtime.channel import open_channel
from narrative.runtime.server import ServiceServer
from narrative.v1 import prompt_pb2_grpc
from services.prompt.engine_openai import OpenAiPromptEngine
from services.prompt.servicer import service
from services.prompt.settings import PromptSettings

Connect = Callable[..., AbstractAsyncContextManager[Any]]


@pytest.fixture(scope="session")
def llama_url(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a llama.cpp server of our own, stopped with SIGTERM at the end."""
    port = free_port()
    log = tmp_path_factory.mktemp("llama") / "log"
    environment = os.environ | {"NARRATIVE_LLAMA__PORT": str(port), "NARRATIVE_MODELS_DIR": str(models_dir)}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.prompt.llama_server"], env=environment, stdout=output, stderr=output
        )
    try:
        until = time.monotonic() + 60
        while True:
            assert process.poll() is None, log.read_text()
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).status_code == 200:
                    break
            except httpx.HTTPError:
                assert time.monotonic() < until, log.read_text()
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0, log.read_text()


@pytest.fixture
def connect() -> Connect:
    """Opens a prompt service with the given settings and yields its stub and channel."""

    @asynccontextmanager
    async def connected(**settings: Any) -> AsyncIterator[Any]:
        chosen = PromptSettings(port=0, drain_s=1, **settings)
        server = ServiceServer(service(OpenAiPromptEngine(chosen)), chosen)
        port = await server.start()
        await server.load()
        channel = open_channel(f"127.0.0.1:{port}")
        try:
            yield prompt_pb2_grpc.PromptServiceStub(channel), channel
        finally:
            await channel.close()
            await server.stop()

    return connected
