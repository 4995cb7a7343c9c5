"""What a caller can do wrong gets a problem document with the right status, and leaves nothing behind."""

import io
import json
import wave
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.conftest import THREE_VOICES, Ensemble


def wav(samples: np.ndarray, rate_hz: int, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


NOISE = np.random.default_rng(0).integers(-3000, 3000, 64_000)
BAD_RECORDINGS = {
    "text": b"this is not audio",
    "empty": b"",
    "10 Hz": wav(NOISE[:100], 10),
    "400 kHz": wav(NOISE, 400_000),
    "64 channels": wav(NOISE, 16_000, 64),
    "truncated": THREE_VOICES.read_bytes()[:100],
}


def assert_problem(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    assert response.status_code in statuses, response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    problem: dict[str, Any] = response.json()
    assert problem["status"] == response.status_code
    assert problem["detail"]
    assert "Traceback" not in response.text
    return problem


@pytest.mark.parametrize("kind", BAD_RECORDINGS)
def test_a_recording_that_is_none_is_refused_at_once(http: httpx.Client, kind: str) -> None:
    before = http.get("/v1/narratives").json()

    response = http.post("/v1/narratives", files={"file": ("sample.wav", BAD_RECORDINGS[kind])})

    assert_problem(response, 400, 422)
    assert http.get("/v1/narratives").json() == before


@pytest.mark.parametrize("path", ["/v1/narratives", "/v1/audio/transcriptions"])
def test_silence_has_no_story(http: httpx.Client, path: str) -> None:
    silence = wav(np.zeros(32_000), 16_000)
    response = http.post(path, files={"file": ("silence.wav", silence)})
    if response.status_code == 202:
        events = http.get(f"{response.headers['location']}/events").text
        assert "NoSpeech" in events
    else:
        assert_problem(response, 422)


@pytest.mark.parametrize(
    "options",
    [
        {"language": "xx"},
        {"width": 100},
        {"num_inference_steps": 0},
        {"num_speakers": -1},
        {"colour": "blue"},
        {"adapters": [{"name": "../../etc/passwd", "weight": 1}]},
        {"adapters": [{"name": "imaginary", "weight": 1}]},
        {"model": "imaginary"},
        {"scheduler": "imaginary"},
        {"seed": "seven"},
    ],
)
def test_options_out_of_range_are_refused(http: httpx.Client, options: dict[str, Any]) -> None:
    with THREE_VOICES.open("rb") as file:
        response = http.post("/v1/narratives", files={"file": file}, data={"options": json.dumps(options)})

    assert_problem(response, 404, 422)


@pytest.mark.parametrize("options", ["{", "[]", '{"guidance_scale": NaN}', "\x00"])
def test_options_that_are_no_json_object_are_refused(http: httpx.Client, options: str) -> None:
    with THREE_VOICES.open("rb") as file:
        assert_problem(http.post("/v1/narratives", files={"file": file}, data={"options": options}), 400, 422)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": ""},
        {"prompt": "x" * 100_000},
        {"prompt": "a boat", "size": "100x100"},
        {"prompt": "a boat", "size": "huge"},
        {"prompt": "a boat", "guidance_scale": 1e9},
        {"prompt": "a boat", "model": "imaginary"},
        {"prompt": "a boat", "colour": "blue"},
        {"prompt": "a boat", "n": 1000},
    ],
)
def test_pictures_that_cannot_be_drawn_are_refused(http: httpx.Client, body: dict[str, Any]) -> None:
    assert_problem(http.post("/v1/images/generations", json=body), 404, 422)


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b'{"prompt": NaN}', "application/json"),
        (b'{"prompt": "\xff\xfe"}', "application/json"),
        (b"\xff\xff", "application/json"),
        (b"--x\r\nbroken", "multipart/form-data; boundary=x"),
        (b"", "multipart/form-data"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/narratives", "/v1/images/generations"])
def test_malformed_bodies_are_refused(http: httpx.Client, path: str, content: bytes, content_type: str) -> None:
    response = http.post(path, content=content, headers={"content-type": content_type})

    assert_problem(response, 400, 415, 422)


@pytest.mark.parametrize("narrative_id", ["nothing", "..%2f..%2fetc%2fpasswd", "%00", "a" * 500])
@pytest.mark.parametrize("rest", ["", "/story.json", "/events", "/images/0"])
def test_a_story_that_is_not_there(http: httpx.Client, narrative_id: str, rest: str) -> None:
    assert_problem(http.get(f"/v1/narratives/{narrative_id}{rest}"), 404, 422)


def test_the_command_line_says_it_in_one_line(ensemble: Ensemble, tmp_path: Path) -> None:
    bad = tmp_path / "sample.txt"
    bad.write_text("not audio")

    done = ensemble.narrate("story", str(bad), "-o", str(tmp_path / "story"), check=False)

    assert done.returncode == 1
    assert "sample.txt" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "story").exists()
