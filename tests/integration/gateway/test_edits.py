"""Edits in OpenAI's shape, around a diffusion service that keeps what it was asked."""

import base64
import json
from typing import Any

import httpx
import pytest

from narrative.errors import ImageUndecodable
from tests.integration.gateway.conftest import Api
from tests.integration.gateway.fakes import png

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    return shared_api


async def edit(api: Api, *pictures: bytes, **fields: str) -> httpx.Response:
    files: Any = [("image", ("cat.png", picture, "image/png")) for picture in pictures] or {"user": (None, "")}
    return await api.http.post("/v1/images/edits", files=files, data={"prompt": "make it night", **fields})


async def test_a_picture_is_edited(api: Api) -> None:
    adapters = json.dumps([{"name": "seal", "weight": 0.5}])
    fields = {"n": "2", "seed": "9", "size": "64x72", "model": "night", "image_guidance_scale": "1.8"}
    response = await edit(api, png(40, 40, 3), **fields, adapters=adapters, user="")

    assert response.status_code == 200, response.text
    assert [base64.b64decode(item["b64_json"]) for item in response.json()["data"]] == [png(64, 72, 9), png(64, 72, 10)]
    ((options, sent),) = api.ensemble.script.edited
    assert sent == png(40, 40, 3)
    assert list(options.frame_bytes) == [len(sent)]
    asked = options.generation
    assert (asked.prompt, asked.model, asked.num_images, asked.seed) == ("make it night", "night", 2, 9)
    assert asked.adapters[0].weight == 0.5
    assert options.image_guidance_scale == 1.8


async def test_frames_stay_in_order_however_large_they_are(api: Api) -> None:
    frames = [bytes([number]) * size for number, size in enumerate((300_000, 1, 600_000))]
    assert (await edit(api, *frames)).status_code == 200
    ((options, sent),) = api.ensemble.script.edited
    assert sent == b"".join(frames)
    assert list(options.frame_bytes) == [300_000, 1, 600_000]


async def test_pictures_of_the_gateway_are_edited_by_their_paths(api: Api) -> None:
    narrative = await api.create({"seed": 5})
    assert (await api.finished(narrative))["status"] == "succeeded"
    story = (await api.http.get(f"/v1/narratives/{narrative}/story.json")).json()
    url = story["speakers"][0]["images"][0]["url"]
    first = await edit(api, image_url=url, response_format="url")
    assert first.status_code == 200, first.text
    assert api.ensemble.script.edited[-1][1] == (await api.http.get(url)).content
    again = await edit(api, image_url=first.json()["data"][0]["url"])
    assert again.status_code == 200, again.text

    for missing in (
        f"/v1/narratives/{narrative}/images/99",
        f"/v1/narratives/{'0' * 32}/images/0",
        f"/v1/images/{'0' * 32}",
    ):
        assert (await edit(api, image_url=missing)).status_code == 404


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"prompt": ""}, "prompt", "Field required"),
        ({"n": "9"}, "n", "less than or equal to 8"),
        ({"size": "64by64"}, "size", "WIDTHxHEIGHT"),
        ({"colour": "red"}, "colour", "Extra inputs"),
        ({"adapters": "seal"}, "adapters", "no JSON"),
        ({"adapters": "[" * 100_000}, "adapters", "no JSON"),
        ({"mask": "x"}, "mask", "by instruction"),
        ({"image_guidance_scale": "nan"}, "image_guidance_scale", "finite"),
        ({"image_url": "http://elsewhere/1.png"}, "", "image_url is /v1/narratives"),
        ({"image_url": "/v1/images/" + "0" * 32}, "image", "or its image_url"),
    ],
)
async def test_what_cannot_be_is_named(api: Api, fields: dict[str, str], field: str, said: str) -> None:
    response = await edit(api, png(), **fields)
    assert response.status_code == 422
    assert response.json().get("field", "") == field
    assert said in response.json()["detail"]
    assert api.ensemble.script.edited == []


async def test_other_forms_are_refused(api: Api) -> None:
    for kwargs in ({"json": {"prompt": "x"}}, {"data": {"prompt": "x"}}, {"content": png()}):
        response = await api.http.post("/v1/images/edits", **kwargs)
        assert response.status_code == 422
        assert "multipart/form-data" in response.json()["detail"]
    no_picture = await edit(api)
    assert no_picture.status_code == 422
    assert "file part named image" in no_picture.json()["detail"]
    as_text = await api.http.post("/v1/images/edits", files={"image": (None, "cat.png"), "prompt": (None, "x")})
    assert "image is a file part" in as_text.json()["detail"]


async def test_too_large_a_picture_is_refused(api: Api) -> None:
    response = await edit(api, b"x" * (20 * 1024**2 + 1))
    assert response.status_code == 413
    assert response.json()["field"] == "image"


async def test_what_diffusion_refuses_is_passed_on(api: Api) -> None:
    api.ensemble.script.fail["diffusion"] = ImageUndecodable("the picture cannot be decoded", field="image")
    response = await edit(api, b"no picture")
    assert response.status_code == 422
    assert response.json()["type"] == "urn:narrative:error:ImageUndecodable"


async def test_the_openapi_document_knows_every_part(api: Api) -> None:
    document = (await api.http.get("/openapi.json")).json()
    form = document["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"prompt", "image", "image_url", "n", "size", "response_format", "model", "adapters"} <= set(
        form["properties"]
    )
    assert form["required"] == ["prompt"]
