"""The health check of the container images, asked of a real service."""

import asyncio
from pathlib import Path

import pytest

from narrative.runtime.healthcheck import ask, main
from narrative.runtime.server import ServiceServer
from narrative.settings import CommonSettings
from services.diffusion.__main__ import make_service
from services.diffusion.settings import DiffusionSettings


async def test_a_service_is_well_once_it_has_loaded(tmp_path: Path) -> None:
    settings = DiffusionSettings(common=CommonSettings(data_dir=tmp_path), engine="fake", port=0, drain_s=0)
    server = ServiceServer(make_service(settings), settings)
    address = f"grpc://127.0.0.1:{await server.start()}"
    try:
        assert await asked(address) == f"{address} is not ready"
        await server.load()
        assert await asked(address) == ""
    finally:
        await server.stop()
    assert await asked(address) == f"{address}: UNAVAILABLE"


async def asked(address: str) -> str:
    return await asyncio.to_thread(ask, address)


def test_nobody_there() -> None:
    assert "http://127.0.0.1:9/healthz" in ask("http://127.0.0.1:9/healthz")


def test_an_address_of_another_kind() -> None:
    assert "neither grpc:// nor http://" in ask("127.0.0.1:50051")


def test_what_is_wrong_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["healthcheck", "grpc://127.0.0.1:9"])

    with pytest.raises(SystemExit, match="UNAVAILABLE"):
        main()
