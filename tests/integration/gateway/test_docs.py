"""The API's page on a machine that reaches nothing but this gateway."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.gateway.conftest import Api

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    return shared_api


async def test_it_loads_from_the_gateway_alone(api: Api) -> None:
    page = await api.http.get("/docs")

    assert page.status_code == 200
    assert not re.findall(r"https?://[^\s\"']+", page.text)
    loaded = [path for path in re.findall(r'(?:src|href)="([^"]+)"', page.text) if not path.startswith("data:")]
    assert sorted(path.rpartition(".")[2] for path in loaded) == ["css", "js"]
    for path in loaded:
        asset = await api.http.get(path)
        assert asset.status_code == 200
        assert path.rpartition(".")[2].replace("js", "javascript") in asset.headers["content-type"]
    described = re.search(r"url: '([^']+)'", page.text)
    assert described is not None
    assert (await api.http.get(described[1])).json()["info"]["title"] == "ColorizedNarrative"


async def test_it_may_load_nothing_else(api: Api) -> None:
    policy = (await api.http.get("/docs")).headers["content-security-policy"]

    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "http" not in policy
    # FastAPI's second page of the same loads from elsewhere; there is none.
    assert (await api.http.get("/redoc")).status_code == 404
    assert (await api.http.get("/docs/..%2f..%2fpyproject.toml")).status_code in (404, 422)


async def test_every_field_can_be_found(api: Api) -> None:
    document = (await api.http.get("/openapi.json")).json()

    for reference in references(document):
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part.replace("~1", "/").replace("~0", "~")]
        assert "type" in found or "enum" in found


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    for inner in part if isinstance(part, list) else ():
        yield from references(inner)
