"""Everything a caller can do wrong: a problem document with the right status, at once, and nothing left behind."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from gateway.jobs import Jobs
from gateway.paging import cursor_of
from narrative.errors import AdapterNotFound
from tests.integration.gateway.conftest import Api, files_below, serving, wav
from tests.integration.gateway.fakes import ensemble

JSON = {"Content-Type": "application/json"}
SPEECH = Path(__file__).parents[2] / "data" / "speech"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bad(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One gateway for all, that has answered once, so that nothing but the answer itself takes time."""
    async with ensemble() as fakes, serving(fakes, tmp_path_factory.mktemp("gateway")) as api:
        await api.http.get("/v1/models")
        yield api


def check(response: httpx.Response, status: int, name: str = "") -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert "Traceback" not in response.text
    if name:
        assert problem["type"] == f"urn:narrative:error:{name}"
    assert response.elapsed.total_seconds() < 1
    return problem


async def nothing_left(api: Api) -> None:
    assert (await api.http.get("/v1/narratives")).json()["data"] == []
    assert files_below(api) == []
    assert api.ensemble.script.calls["asr"] == 0


def hours_in_a_few_bytes() -> bytes:
    """The start of a FLAC file, whose header now claims three hours."""
    data = bytearray((SPEECH / "librivox.flac").read_bytes()[:20_000])
    rate_hz = int.from_bytes(data[18:21], "big") >> 4
    # STREAMINFO ends its 36 bits of total samples 26 bytes into the file (RFC 9639, 8.2).
    data[22:26] = (3 * 3600 * rate_hz).to_bytes(4, "big")
    return bytes(data)


def padded(text: str) -> bytes:
    """As long as the sound that it stands for would be, so that its length gives nothing away."""
    return text.encode() + b"\n" * 100_000


SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=talk\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 49170 RTP/AVP 0\n"
# Relative to the working directory, as the concat demuxer takes it, whatever that is.
HERE = os.path.relpath(SPEECH)
HLS = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\n{HERE}/librivox.flac\n#EXT-X-ENDLIST\n"

RECORDINGS = {
    "no audio": (b"this is not audio" * 100, "AudioUndecodable"),
    "empty": (b"", "AudioUndecodable"),
    "cut off in its header": (wav()[:30], "AudioUndecodable"),
    "header only": (wav()[:44], "AudioUndecodable"),
    "10 Hz": (wav(2.0, rate_hz=10), "AudioRejected"),
    "400 kHz": (wav(0.1, rate_hz=400_000), "AudioRejected"),
    "64 channels": (wav(0.1, channels=64), "AudioRejected"),
    "claims hours": (hours_in_a_few_bytes(), "AudioRejected"),
    "a port to listen on": (SDP.encode(), "AudioUndecodable"),
    "a file of the gateway": (padded(f"ffconcat version 1.0\nfile {HERE}/librivox.flac\n"), "AudioUndecodable"),
    "a playlist": (padded(HLS), "AudioUndecodable"),
}


@pytest.mark.parametrize("kind", RECORDINGS)
@pytest.mark.parametrize("path", ["/v1/narratives", "/v1/uploads", "/v1/audio/transcriptions"])
async def test_recordings(bad: Api, path: str, kind: str) -> None:
    data, name = RECORDINGS[kind]

    problem = check(await bad.http.post(path, files={"file": ("talk.wav", data)}), 422, name)

    if name == "AudioUndecodable":
        assert "wav, flac, mp3, m4a, ogg, webm or mp4" in problem["detail"]
    await nothing_left(bad)


OPTIONS: dict[str, str] = {
    "language": '{"language": "xx"}',
    "language name": '{"language": "English"}',
    "size": '{"width": 100}',
    "huge": '{"width": 80000, "height": 80000}',
    "NaN": '{"guidance_scale": NaN}',
    "infinity": '{"guidance_scale": Infinity}',
    "steps": '{"num_inference_steps": 0}',
    "images": '{"num_images": 1000}',
    "speakers": '{"num_speakers": -1}',
    "speakers bounds": '{"min_speakers": 5, "max_speakers": 2}',
    "no speakers": '{"min_speakers": 0}',
    "crowd": '{"max_speakers": 65}',
    "words": '{"word_timestamps": "x"}',
    "temperature": '{"temperature": NaN}',
    "speakers twice": '{"num_speakers": 2, "max_speakers": 2}',
    "seed": '{"seed": "seven"}',
    "negative prompt": '{"negative_prompt": "' + "x" * 100_000 + '"}',
    "style": '{"style": "' + "x" * 1000 + '"}',
    "unknown field": '{"colour": "blue"}',
    "unknown model": '{"model": "imaginary"}',
    "unknown scene model": '{"scene_model": "imaginary"}',
    "unknown asr model": '{"asr_model": "imaginary"}',
    "unknown engine": '{"translation_engine": "imaginary"}',
    "adapter path": '{"adapters": [{"name": "../../etc/passwd"}]}',
    "model path": '{"model": "/etc/passwd"}',
    "adapter weight": '{"adapters": [{"name": "a", "weight": NaN}]}',
    "adapter field": '{"adapters": [{"name": "a", "scale": 1}]}',
    "no JSON": "{",
    "no object": "[]",
    "nul": "\x00",
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("kind", OPTIONS)
async def test_options(bad: Api, kind: str) -> None:
    problem = check(await bad.post(OPTIONS[kind]), 422, "InvalidParameter")

    assert len(problem["detail"]) < 1000
    await nothing_left(bad)


TRANSCRIPTIONS: dict[str, dict[str, str]] = {
    "none": {"num_speakers": "0"},
    "least of none": {"min_speakers": "0"},
    "negative": {"max_speakers": "-1"},
    "NaN": {"min_speakers": "NaN"},
    "half": {"max_speakers": "1.5"},
    "crowd": {"max_speakers": "65"},
    "bounds": {"min_speakers": "5", "max_speakers": "2"},
    "twice": {"num_speakers": "2", "min_speakers": "2"},
    "words": {"timestamp_granularities[]": "syllable"},
    "temperature": {"temperature": "NaN"},
    "negative temperature": {"temperature": "-0.1"},
    "unknown": {"word_timestamps": "true"},
}


@pytest.mark.parametrize("kind", TRANSCRIPTIONS)
async def test_transcriptions(bad: Api, kind: str) -> None:
    files = {"file": ("talk.wav", wav())}
    response = await bad.http.post("/v1/audio/transcriptions", files=files, data=TRANSCRIPTIONS[kind])

    problem = check(response, 422, "InvalidParameter")
    assert any(name.removesuffix("[]") in problem["detail"] for name in TRANSCRIPTIONS[kind])
    await nothing_left(bad)


FORMS: dict[str, tuple[bytes, str]] = {
    "broken": (b"--x\r\nbroken", "multipart/form-data; boundary=x"),
    "no boundary": (b"", "multipart/form-data"),
    "no end": (b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc', "multipart/form-data; boundary=x"),
    "no file": (
        b'--x\r\nContent-Disposition: form-data; name="options"\r\n\r\n{}\r\n--x--\r\n',
        "multipart/form-data; boundary=x",
    ),
    "file without a name": (
        b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--x--\r\n',
        "multipart/form-data; boundary=x",
    ),
    "bad UTF-8": (
        b'--x\r\nContent-Disposition: form-data; name="options"\r\n\r\n{"style": "\xff"}\r\n--x--\r\n',
        "multipart/form-data; boundary=x",
    ),
    "bad UTF-8 JSON": (b'{"object": "\xff\xfe"}', "application/json"),
    "no JSON": (b"\xff\xff", "application/json"),
    "empty": (b"", "application/json"),
    "path": (b'{"object": "../../etc/passwd"}', "application/json"),
    "path below uploads": (b'{"object": "uploads/../narratives"}', "application/json"),
    "unknown type": (b"abc", "text/plain"),
}


@pytest.mark.parametrize("kind", FORMS)
async def test_forms(bad: Api, kind: str) -> None:
    content, content_type = FORMS[kind]

    check(await bad.http.post("/v1/narratives", content=content, headers={"Content-Type": content_type}), 422)

    await nothing_left(bad)


async def test_uploads_that_do_not_exist(bad: Api) -> None:
    check(await bad.http.post("/v1/narratives", json={"object": f"uploads/{'0' * 32}"}), 404)
    await nothing_left(bad)


PICTURES: dict[str, tuple[dict[str, Any] | bytes, int]] = {
    "no prompt": ({}, 422),
    "empty prompt": ({"prompt": ""}, 422),
    "100 kB": ({"prompt": "x" * 100_000}, 422),
    "2 MB": ({"prompt": "x" * 2_000_000}, 413),
    "size": ({"prompt": "a", "size": "100x100"}, 422),
    "no size": ({"prompt": "a", "size": "huge"}, 422),
    "size twice": ({"prompt": "a", "size": "256x256", "width": 256}, 422),
    "guidance": ({"prompt": "a", "guidance_scale": 1e9}, 422),
    "NaN": (b'{"prompt": "a", "guidance_scale": NaN}', 422),
    "n": ({"prompt": "a", "n": 1000}, 422),
    "model": ({"prompt": "a", "model": "imaginary"}, 422),
    "field": ({"prompt": "a", "colour": "blue"}, 422),
    "bad UTF-8": (b'{"prompt": "\xff"}', 400),
    "no JSON": (b"{", 422),
    "deep": (b"[" * 100_000, 400),
}


@pytest.mark.parametrize("kind", PICTURES)
async def test_pictures(bad: Api, kind: str) -> None:
    body, status = PICTURES[kind]
    sent: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}

    check(await bad.http.post("/v1/images/generations", headers=JSON, **sent), status)

    assert not bad.ensemble.script.pictures


async def test_what_diffusion_refuses_comes_through(bad: Api) -> None:
    bad.ensemble.script.fail["diffusion"] = AdapterNotFound("there is no adapter 'x'", field="adapters")

    response = await bad.http.post("/v1/images/generations", json={"prompt": "a", "adapters": [{"name": "x"}]})

    bad.ensemble.script.fail.clear()
    check(response, 404, "AdapterNotFound")


@pytest.mark.parametrize("narrative_id", ["0" * 32, "nothing", "..%2f..%2fetc%2fpasswd", "%00", "a" * 500, "A" * 32])
@pytest.mark.parametrize("rest", ["", "/events", "/story.json", "/story.html", "/images/0", "/audio"])
async def test_narratives_that_do_not_exist(bad: Api, narrative_id: str, rest: str) -> None:
    response = await bad.http.get(f"/v1/narratives/{narrative_id}{rest}")
    assert response.status_code in (404, 422)
    check(response, response.status_code)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/narratives", 405),
        ("GET", "/v1/narratives?limit=0", 422),
        ("GET", "/v1/narratives?limit=x", 422),
        ("GET", "/v1/narratives?status=sleeping", 422),
        ("GET", "/v1/narratives?cursor=%00%ff", 422),
        ("GET", "/v1/narratives?cursor=bm90aGluZw", 422),
        ("GET", f"/v1/narratives?cursor={cursor_of(10**20, '0' * 32)}", 422),
        ("GET", f"/v1/datasets?cursor={cursor_of(-1, '0' * 32)}", 422),
        ("GET", f"/v1/fine-tunes?cursor={cursor_of(1, 'x')}", 422),
        ("GET", "/v1/images/..%2f..", 404),
        ("GET", "/v1/images/abc", 422),
    ],
)
async def test_paths(bad: Api, method: str, path: str, status: int) -> None:
    check(await bad.http.request(method, path), status)


ADAPTERS: dict[str, tuple[dict[str, str], str]] = {
    "no name": ({}, "name"),
    "a path": ({"name": "../seal"}, "name"),
    "alpha": ({"name": "seal", "alpha": "nan"}, "alpha"),
    "another part": ({"name": "seal", "trigger": "sks"}, "trigger"),
}


@pytest.mark.parametrize("kind", ADAPTERS)
async def test_adapters(bad: Api, kind: str) -> None:
    fields, field = ADAPTERS[kind]

    response = await bad.http.post("/v1/adapters", data=fields, files={"file": ("seal.safetensors", b"x")})

    assert check(response, 422, "InvalidParameter")["field"] == field
    await nothing_left(bad)


async def test_an_adapter_without_its_file(bad: Api) -> None:
    response = await bad.http.post("/v1/adapters", files={"name": (None, "seal")})
    assert check(response, 422, "InvalidParameter")["field"] == "file"


async def test_the_body_is_named_where_no_field_is_to_blame(bad: Api) -> None:
    response = await bad.http.post("/v1/images/generations", data={"prompt": "a"})
    assert "Content-Type: application/json" in check(response, 422)["detail"]
    response = await bad.http.post("/v1/images/generations", json=None, headers=JSON)
    assert check(response, 422)["detail"] == "the request body: Field required"
    twice = {"prompt": "a", "size": "64x64", "width": 64}
    response = await bad.http.post("/v1/images/generations", json=twice)
    assert check(response, 422)["detail"] == "give size, or width and height, not both"
    response = await bad.http.post("/v1/images/generations", content=b"[" * 100_000, headers=JSON)
    assert "JSON in UTF-8" in check(response, 400)["detail"]


async def test_the_unforeseen_has_a_request_id_that_the_log_has_too(bad: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(Jobs, "page", broken)

    with capture_logs([merge_contextvars]) as logged:
        for _ in range(2):  # The connection is still good.
            response = await bad.http.get("/v1/narratives", headers={"X-Request-Id": "mine"})
            assert check(response, 500)["detail"].endswith("request id mine")
            assert response.headers["x-request-id"] == "mine"
            assert "secret" not in response.text
    errors = [entry for entry in logged if entry["log_level"] == "error"]
    assert [(entry["request_id"], str(entry["exc_info"])) for entry in errors] == [("mine", "a secret")] * 2


async def test_ranges_and_event_ids_at_last(bad: Api) -> None:
    narrative_id = await bad.create()
    await bad.finished(narrative_id)
    for last in ("x", "-1", "9" * 30):
        response = await bad.http.get(f"/v1/narratives/{narrative_id}/events", headers={"Last-Event-ID": last})
        check(response, 422)
    for wanted in (f"{10**15}-", "5-1"):
        headers = {"Range": f"bytes={wanted}"}
        check(await bad.http.get(f"/v1/narratives/{narrative_id}/audio", headers=headers), 416)
    headers = {"Range": f"bytes={'9' * 5000}-"}
    assert (await bad.http.get(f"/v1/narratives/{narrative_id}/audio", headers=headers)).status_code == 200
    await bad.http.delete(f"/v1/narratives/{narrative_id}")
