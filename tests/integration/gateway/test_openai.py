"""Requests and answers in OpenAI's shapes."""

import base64

import pytest

from narrative.errors import QueueFull
from tests.integration.gateway.conftest import Api, wav
from tests.integration.gateway.fakes import png

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    return shared_api


async def transcribe(api: Api, **fields: str) -> str:
    response = await api.http.post("/v1/audio/transcriptions", files={"file": ("talk.wav", wav())}, data=fields)
    assert response.status_code == 200, response.text
    return response.text


async def test_transcriptions_in_every_form(api: Api) -> None:
    assert "a red barn stands on the hill the sea is green" in await transcribe(api, response_format="text")
    assert (await transcribe(api, response_format="srt")).startswith(
        "1\n00:00:00,000 --> 00:00:01,500\n[SPEAKER_00] a red barn stands on the hill\n\n2\n"
    )
    assert (await transcribe(api, response_format="vtt")).startswith(
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\n<v SPEAKER_00>a red barn stands on the hill</v>\n"
    )


async def test_verbose_transcriptions_know_who_spoke(api: Api) -> None:
    response = await api.http.post(
        "/v1/audio/transcriptions",
        files={"file": ("talk.wav", wav())},
        data={
            "model": "whisper-1",
            "response_format": "verbose_json",
            "language": "en",
            "timestamp_granularities[]": ["word", "segment"],
        },
    )

    answer = response.json()
    assert answer["language"] == "en"
    assert answer["duration"] == 6.0
    assert answer["speakers"] == ["SPEAKER_00", "SPEAKER_01"]
    assert [segment["speaker"] for segment in answer["segments"]] == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_00"]
    assert answer["words"][0] == {"word": "a", "start": 0.0, "end": 0.3, "speaker": "SPEAKER_00"}


@pytest.mark.parametrize(
    ("fields", "asked", "diarized"),
    [
        ({}, (0, 0, 0), False),
        ({"num_speakers": "2"}, (2, 0, 0), True),
        ({"min_speakers": "2"}, (0, 2, 0), True),
        ({"min_speakers": "2", "max_speakers": "3"}, (0, 2, 3), True),
        ({"max_speakers": "1", "response_format": "verbose_json"}, (0, 0, 1), True),
    ],
)
async def test_how_many_speak_can_be_said(
    api: Api, fields: dict[str, str], asked: tuple[int, int, int], diarized: bool
) -> None:
    await transcribe(api, **fields)

    (request,) = api.ensemble.script.requests
    assert (request.num_speakers, request.min_speakers, request.max_speakers) == asked
    assert request.skip_diarization is not diarized


async def test_a_model_that_there_is_not_is_named_as_it_was_asked_for(api: Api) -> None:
    files = {"file": ("talk.wav", wav())}
    response = await api.http.post("/v1/audio/transcriptions", files=files, data={"model": "imaginary"})
    assert response.status_code == 422
    assert response.json()["field"] == "model"
    assert response.json()["detail"] == "model: 'imaginary' is not known; there are fake-asr"


async def test_silence_is_refused(api: Api) -> None:
    api.ensemble.script.lines = []
    response = await api.http.post("/v1/audio/transcriptions", files={"file": ("talk.wav", wav())})
    assert response.status_code == 422
    assert response.json()["type"] == "urn:narrative:error:NoSpeech"


@pytest.mark.parametrize("form", ["b64_json", "url"])
async def test_pictures(api: Api, form: str) -> None:
    response = await api.http.post(
        "/v1/images/generations",
        json={"prompt": "a boat", "n": 2, "size": "64x72", "seed": 9, "response_format": form, "user": "me"},
    )

    answer = response.json()
    assert response.status_code == 200
    assert answer["created"] > 1_700_000_000
    for number, picture in enumerate(answer["data"]):
        assert picture["seed"] == 9 + number
        if form == "url":
            assert "b64_json" not in picture
            data = (await api.http.get(picture["url"])).content
        else:
            data = base64.b64decode(picture["b64_json"])
        assert data == png(64, 72, 9 + number)


async def test_a_full_queue_says_when_to_come_back(api: Api) -> None:
    api.ensemble.script.fail["diffusion"] = QueueFull("32 requests wait already", retry_after_s=7.2)

    response = await api.http.post("/v1/images/generations", json={"prompt": "a boat"})

    assert response.status_code == 429
    assert response.headers["retry-after"] == "8"
