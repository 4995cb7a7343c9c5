"""Two gateway processes on one PostgreSQL and one object store, asked for the same at the same moment."""

import asyncio
import contextlib
from pathlib import Path

import httpx
import pytest

from gateway.settings import GatewaySettings
from narrative.ports import free_port
from narrative.settings import CommonSettings
from tests.integration.gateway.conftest import Api
from tests.integration.gateway.fakes import Ensemble
from tests.integration.gateway.test_crash import environment_of, process

_KEYS = 8


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_the_same_key_at_the_same_moment_is_one_narrative(
    fakes: Ensemble, tmp_path: Path, database_url: str
) -> None:
    # Longer than the gateway that made the narrative takes to tell DBOS of it.
    fakes.script.delay_s["asr"] = 0.5
    settings = GatewaySettings(common=CommonSettings(data_dir=tmp_path))
    async with contextlib.AsyncExitStack() as stack:
        apis = []
        for name in ("gateway-0", "gateway-1"):
            environment = environment_of(fakes, tmp_path, database_url) | {"NARRATIVE_GATEWAY__EXECUTOR_ID": name}
            port = free_port()
            await stack.enter_async_context(process(environment, port))
            http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30)
            apis.append(Api(await stack.enter_async_context(http), settings, fakes))

        for number in range(_KEYS):
            options, headers = {"seed": 100 * number}, {"Idempotency-Key": f"key {number}"}
            one, other = await asyncio.gather(*(api.create(options, headers=headers) for api in apis))
            assert one == other
            assert (await apis[number % 2].finished(one))["status"] == "succeeded"

    assert fakes.script.calls["asr"] == _KEYS
    assert fakes.script.pictures == {100 * number + picture: 1 for number in range(_KEYS) for picture in (0, 1)}
