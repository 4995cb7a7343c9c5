"""A recording goes in, a story comes out."""

from pathlib import Path
from typing import Any

import pytest

from gateway.clients import Services
from narrative.errors import ServiceUnavailable
from narrative.v1 import common_pb2
from tests.integration.gateway.conftest import Api, serving, wav
from tests.integration.gateway.fakes import Ensemble, png


async def test_a_recording_becomes_a_story(fakes: Ensemble, tmp_path: Path, database_url: str) -> None:
    async with serving(fakes, tmp_path, database_url=database_url) as api:
        response = await api.post({"seed": 5, "num_images": 2, "style": "ink"})
        assert response.status_code == 202
        narrative_id = response.json()["id"]
        assert response.headers["location"] == f"/v1/narratives/{narrative_id}"

        events = [event async for event in api.events(narrative_id)]

        assert [event["id"] for event in events] == list(range(1, len(events) + 1))
        assert events[-1]["event"] == "finished"
        assert events[-1]["data"] == {"status": "succeeded", "error": None}
        assert {event["event"] for event in events} >= {"status", "stage", "transcript", "scene", "image_step", "image"}
        told = (await api.http.get(f"/v1/narratives/{narrative_id}/story.json")).json()
        assert [speaker["speaker"] for speaker in told["speakers"]] == ["SPEAKER_00", "SPEAKER_01"]
        first = told["speakers"][0]
        assert first["text"] == "A red barn stands on the hill. A horse looks out of the door."
        assert first["style"] == "ink"
        assert first["prompt"] == "a red barn stands on the hill, evening light"
        assert first["translation_engine"] == "identity"
        seeds = [image["seed"] for speaker in told["speakers"] for image in speaker["images"]]
        assert seeds == [5, 6, 7, 8]
        assert [segment["normalized_text"] for segment in told["segments"]][1] == "The sea is green and calm."
        for speaker in told["speakers"]:
            for image in speaker["images"]:
                picture = await api.http.get(image["url"])
                assert picture.headers["content-type"] == "image/png"
                assert picture.content == png(shade=image["seed"])


async def test_the_page_is_whole_and_escaped(api: Api) -> None:
    api.ensemble.script.lines = [("SPEAKER_00", "<script>alert('x')</script> a boat", "en")]
    narrative_id = await api.create()
    await api.finished(narrative_id)

    response = await api.http.get(f"/v1/narratives/{narrative_id}/story.html")

    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<script>alert" not in response.text
    assert response.text.count("data:image/png;base64,") == 1
    assert "data:audio/" in response.text
    assert "http://" not in response.text
    assert "https://" not in response.text


async def test_a_picture_is_there_before_the_last_scene(api: Api) -> None:
    # The second speaker's scene waits until the first picture has been seen.
    script = api.ensemble.script
    script.lines = [("SPEAKER_00", "a barn", "en"), ("SPEAKER_01", "the sea", "en")]
    seen: list[str] = []
    import asyncio

    gate = asyncio.Event()
    original = script.work

    async def work(service: str, request: Any = None) -> None:
        if service == "prompt" and request.speaker == "SPEAKER_01":
            await gate.wait()
        await original(service, request)

    script.work = work  # type: ignore[method-assign]
    narrative_id = await api.create()
    async for event in api.events(narrative_id):
        if event["event"] in ("image", "scene"):
            seen.append(f"{event['event']} {event['data']['speaker']}")
        if event["event"] == "image":
            gate.set()

    assert seen == ["scene SPEAKER_00", "image SPEAKER_00", "scene SPEAKER_01", "image SPEAKER_01"]


async def test_what_belongs_to_a_story_can_be_fetched(api: Api) -> None:
    narrative_id = await api.create()
    await api.finished(narrative_id)
    base = f"/v1/narratives/{narrative_id}"

    picture = await api.http.get(f"{base}/images/0")
    again = await api.http.get(f"{base}/images/0", headers={"If-None-Match": picture.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""

    whole = await api.http.get(f"{base}/audio")
    assert whole.status_code == 200
    part = await api.http.get(f"{base}/audio", headers={"Range": "bytes=4-9"})
    assert part.status_code == 206
    assert part.content == whole.content[4:10]
    assert part.headers["content-range"] == f"bytes 4-9/{len(whole.content)}"
    tail = await api.http.get(f"{base}/audio", headers={"Range": "bytes=-3"})
    assert tail.content == whole.content[-3:]
    beyond = await api.http.get(f"{base}/audio", headers={"Range": f"bytes={len(whole.content)}-"})
    assert beyond.status_code == 416

    transcript = (await api.http.get(f"{base}/transcript.json")).json()
    assert len(transcript["segments"]) == 3


async def test_an_upload_can_be_told_twice(api: Api) -> None:
    uploaded = await api.http.post("/v1/uploads", files={"file": ("talk.wav", wav())})
    assert uploaded.status_code == 201
    for seed in (1, 2):
        body = {"object": uploaded.json()["object"], "options": {"seed": seed}}
        response = await api.http.post("/v1/narratives", json=body)
        assert response.status_code == 202, response.text
        assert (await api.finished(response.json()["id"]))["status"] == "succeeded"


@pytest.mark.parametrize("asked", ["", "fake-painter"])
async def test_a_story_says_which_models_made_it(api: Api, asked: str) -> None:
    narrative_id = await api.create({"model": asked})
    await api.finished(narrative_id)

    told = (await api.http.get(f"/v1/narratives/{narrative_id}/story.json")).json()

    assert told["models"] == {
        "transcription": "fake-asr",
        "diarization": "fake-diarization",
        "image": "fake-painter",
    }
    assert told["options"]["model"] == asked


async def test_a_story_has_the_times_of_words_where_they_were_asked_for(api: Api) -> None:
    asked = {"word_timestamps": True, "temperature": 0.2, "min_speakers": 1, "max_speakers": 3}
    with_words, without = await api.create(asked), await api.create()
    for narrative_id in (with_words, without):
        await api.finished(narrative_id)

    told = (await api.http.get(f"/v1/narratives/{with_words}/story.json")).json()
    assert told["segments"][0]["words"] == [{"word": "a", "start_s": 0.0, "end_s": 0.3, "probability": 0.8}]
    assert told["options"] | asked == told["options"]
    plain = (await api.http.get(f"/v1/narratives/{without}/story.json")).json()
    assert "words" not in plain["segments"][0]
    assert plain["options"]["word_timestamps"] is False
    requests = [request for request in api.ensemble.script.requests if hasattr(request, "word_timestamps")]
    assert [(one.min_speakers, one.max_speakers, one.temperature) for one in requests if one.word_timestamps] == [
        (1, 3, 0.2)
    ]


async def test_a_story_needs_no_name_of_a_model(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def models(services: Services, service: str) -> list[common_pb2.Model]:
        if service == "diffusion":
            raise ServiceUnavailable("diffusion does not answer")
        return await known(services, service)

    known = Services.models
    monkeypatch.setattr(Services, "models", models)
    narrative_id = await api.create()

    assert (await api.finished(narrative_id))["status"] == "succeeded"
    told = (await api.http.get(f"/v1/narratives/{narrative_id}/story.json")).json()
    assert told["models"]["image"] == ""


async def test_narratives_are_listed_from_the_newest_in_pages(api: Api) -> None:
    made = [await api.create() for _ in range(5)]
    for narrative_id in made:
        await api.finished(narrative_id)

    listed: list[str] = []
    cursor = ""
    while True:
        page = (await api.http.get("/v1/narratives", params={"limit": 2, "cursor": cursor})).json()
        listed += [narrative["id"] for narrative in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert listed == made[::-1]
    failed = (await api.http.get("/v1/narratives", params={"status": "failed"})).json()
    assert failed["data"] == []


@pytest.mark.parametrize(
    ("lines", "readable", "engine", "expected"),
    [
        # The scene writer reads only English: the Russian line is translated first.
        ([("SPEAKER_00", "дом", "ru")], ("en",), "", {"sent": ["en<дом>"], "prompt": "en<дом>, evening light"}),
        # It reads Russian: what it wrote is translated last.
        ([("SPEAKER_00", "дом", "ru")], ("en", "ru"), "", {"sent": ["дом"], "prompt": "en<дом, evening light>"}),
        # A speaker who mixes languages: only the line that is not read is translated.
        (
            [("SPEAKER_00", "дом", "ru"), ("SPEAKER_00", "a house", "en")],
            ("en",),
            "",
            {"sent": ["en<дом>", "a house"], "prompt": "en<дом>, evening light"},
        ),
        # The speech model's own translation.
        (
            [("SPEAKER_00", "дом", "ru")],
            ("en",),
            "whisper",
            {"sent": ["whispered дом"], "prompt": "whispered дом, evening light"},
        ),
    ],
)
async def test_lines_are_translated_where_the_scene_writer_cannot_read_them(
    api: Api, lines: list[tuple[str, str, str]], readable: tuple[str, ...], engine: str, expected: dict[str, Any]
) -> None:
    script = api.ensemble.script
    script.lines, script.prompt_languages = lines, readable

    narrative_id = await api.create({"translation_engine": engine})
    assert (await api.finished(narrative_id))["status"] == "succeeded"

    described = next(request for request in script.requests if hasattr(request, "lines"))
    assert [line.text for line in described.lines] == expected["sent"]
    told = (await api.http.get(f"/v1/narratives/{narrative_id}/story.json")).json()
    assert told["speakers"][0]["prompt"] == expected["prompt"]
    assert told["speakers"][0]["translation_engine"] == (engine or "gloss")
    assert told["segments"][0]["text"] == "дом"
