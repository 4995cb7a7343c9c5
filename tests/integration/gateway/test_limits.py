"""Limits, keys and what the operator sees."""

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.gateway.conftest import Api, files_below, serving, wav
from tests.integration.gateway.fakes import Ensemble


@pytest.mark.parametrize("path", ["/v1/narratives", "/v1/adapters", "/v1/datasets"])
@pytest.mark.parametrize("claim", [None, 10])
async def test_uploads_that_are_too_large(fakes: Ensemble, tmp_path: Path, path: str, claim: int | None) -> None:
    # 20 MB arrive in pieces; the limit holds whatever the header claims.
    limits = dict.fromkeys(("max_upload_bytes", "max_adapter_bytes", "max_dataset_bytes"), 1024 * 1024)
    async with serving(fakes, tmp_path, **limits) as api:
        started = time.monotonic()

        async def pieces() -> Any:
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
            for _ in range(20):
                yield b"\0" * 1_000_000
            yield b"\r\n--x--\r\n"

        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        if claim is None:
            response = await api.http.post(path, content=pieces(), headers=headers)
        else:
            body = b"".join([piece async for piece in pieces()])
            response = await api.http.post(path, content=body, headers=headers)
        assert response.status_code == 413
        assert response.headers["content-type"] == "application/problem+json"
        assert time.monotonic() - started < 2
        assert files_below(api) == []


async def test_a_recording_longer_than_the_limit(fakes: Ensemble, tmp_path: Path) -> None:
    async with serving(fakes, tmp_path, max_duration_s=0.5) as api:
        response = await api.http.post("/v1/uploads", files={"file": ("talk.wav", wav(2.0))})
        assert response.status_code == 422
        assert response.json()["type"] == "urn:narrative:error:AudioRejected"


async def test_keys(fakes: Ensemble, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"secret").hexdigest()
    async with serving(fakes, tmp_path, api_key_hashes=[digest]) as api:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            refused = await api.http.get("/v1/narratives", headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert refused.headers["content-type"] == "application/problem+json"
        upload = await api.post()
        assert upload.status_code == 401
        api.http.headers["Authorization"] = "Bearer secret"
        narrative_id = await api.create()
        assert (await api.finished(narrative_id))["status"] == "succeeded"
        async with httpx.AsyncClient(base_url=api.http.base_url) as stranger:
            for path in ("/healthz", "/readyz", "/metrics", "/docs", "/docs/swagger-ui.css", "/"):
                assert (await stranger.get(path)).status_code == 200


async def test_readiness_names_what_is_missing(api: Api) -> None:
    assert (await api.http.get("/readyz")).json() == {"status": "ready"}

    await api.ensemble.stop("translation")
    response = await api.http.get("/readyz")

    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert list(response.json()["missing"]) == ["translation"]
    assert "translation" in response.json()["detail"]
    models = (await api.http.get("/v1/models")).json()
    assert list(models["unavailable"]) == ["translation"]
    assert {model["id"] for model in models["data"]} == {"fake-asr", "fake-llm", "fake-painter"}
    assert (await api.http.get("/healthz")).status_code == 200


async def test_metrics_count_requests_by_route(api: Api) -> None:
    await api.http.get(f"/v1/narratives/{'0' * 32}")

    text = (await api.http.get("/metrics")).text

    assert 'method="GET /v1/narratives/{narrative_id}",service="gateway"' in text


async def test_metrics_count_the_unfinished(api: Api) -> None:
    api.ensemble.script.hold["asr"] = asyncio.Event()
    first, second = await api.create(), await api.create()
    async with asyncio.timeout(10):
        while "narrative_unfinished 2.0" not in (await api.http.get("/metrics")).text:
            await asyncio.sleep(0.01)

    api.ensemble.script.hold["asr"].set()
    await asyncio.gather(api.finished(first), api.finished(second))

    async with asyncio.timeout(10):
        while "narrative_unfinished 0.0" not in (await api.http.get("/metrics")).text:
            await asyncio.sleep(0.01)


async def test_the_request_id_reaches_every_service(api: Api) -> None:
    narrative_id = await api.create(headers={"X-Request-Id": "from-the-caller"})
    await api.finished(narrative_id)

    assert set(api.ensemble.script.request_ids) == {"from-the-caller"}
    assert len(api.ensemble.script.request_ids) == 5
    response = await api.http.get("/healthz", headers={"X-Request-Id": "not an id!"})
    assert response.headers["x-request-id"] != "not an id!"


async def test_the_contract_can_be_read(api: Api) -> None:
    document: dict[str, Any] = (await api.http.get("/openapi.json")).json()

    assert set(document["paths"]) >= {"/v1/narratives", "/v1/narratives/{narrative_id}/events", "/v1/models"}
    post = document["paths"]["/v1/narratives"]["post"]
    assert set(post["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert "application/problem+json" in post["responses"]["422"]["content"]
