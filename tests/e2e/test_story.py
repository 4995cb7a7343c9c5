"""Recordings become stories, on real models."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jiwer
import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import THREE_VOICES, Ensemble, words


def tell(ensemble: Ensemble, recording: Path, folder: Path, *options: str) -> dict[str, Any]:
    ensemble.narrate("story", str(recording), "--output", str(folder), *options)
    told: dict[str, Any] = json.loads((folder / "story.json").read_text(encoding="utf-8"))
    return told


def assert_pictures(told: dict[str, Any], folder: Path) -> None:
    """Every speaker has a picture with something on it, and no two are the same."""
    seen = set()
    for speaker in told["speakers"]:
        assert speaker["images"]
        for image in speaker["images"]:
            picture = Image.open(folder / image["file"])
            assert picture.size == (image["width"], image["height"])
            assert np.asarray(picture.convert("L"), dtype=float).std() > 5
            parameters = json.loads(picture.text["parameters"])
            assert parameters["prompt"] == speaker["prompt"]
            assert parameters["seed"] == image["seed"]
            seen.add(picture.tobytes())
    assert len(seen) == sum(len(speaker["images"]) for speaker in told["speakers"])


def test_three_voices_become_three_scenes(ensemble: Ensemble, tmp_path: Path) -> None:
    told = tell(ensemble, THREE_VOICES, tmp_path)

    lines = re.findall(r"^\| (?:slt|rms|awb) \| (.*) \|$", (THREE_VOICES.parent / "README.md").read_text(), re.M)
    heard = " ".join(segment["text"] for segment in told["segments"])
    assert jiwer.wer(" ".join(words(" ".join(lines))), " ".join(words(heard))) <= 0.1
    assert len(told["speakers"]) == 3
    first, second, third = (set(words(speaker["prompt"])) for speaker in told["speakers"])
    assert {"girl", "grass"} & first
    assert "lighthouse" in second
    assert {"mountains", "fox"} & third
    assert_pictures(told, tmp_path)


def test_the_page_needs_nothing_from_outside(ensemble: Ensemble, tmp_path: Path) -> None:
    told = tell(ensemble, THREE_VOICES, tmp_path)
    page = (tmp_path / "story.html").read_text(encoding="utf-8")

    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:|#)[^"'\s>]+""", page)
    for speaker in told["speakers"]:
        assert speaker["scene"] in page
    assert page.count("data:image/png;base64,") == 3
    assert "<audio" in page


def test_russian_and_english_in_one_recording(ensemble: Ensemble, speech: Path, tmp_path: Path) -> None:
    told = tell(ensemble, speech / "mixed3.flac", tmp_path)

    reference = json.loads((speech / "mixed3.json").read_text(encoding="utf-8"))
    assert len(told["speakers"]) == len({turn["speaker"] for turn in reference}) == 3
    russian = next(speaker for speaker in told["speakers"] if re.search("[а-я]", speaker["text"]))
    assert russian["translation_engine"] == "gloss"
    assert not re.search("[а-я]", russian["prompt"])
    assert {segment["language"] for segment in told["segments"]} == {"ru", "en"}
    assert_pictures(told, tmp_path)


def test_a_russian_recording_gets_pictures_of_what_was_said(ensemble: Ensemble, speech: Path, tmp_path: Path) -> None:
    told = tell(ensemble, speech / "russian.flac", tmp_path)

    assert told["language"] == "ru"
    (speaker,) = told["speakers"]
    assert "собак" in speaker["text"]
    english = set(words(speaker["english_text"]))
    assert (
        len({"girl", "grass", "dog", "table", "apple", "jacket", "umbrella", "mountains", "lake", "sofa"} & english)
        >= 6
    )
    assert_pictures(told, tmp_path)


@pytest.mark.parametrize("suffix", ["m4a", "mp3", "mp4"])
def test_other_containers(
    ensemble: Ensemble, convert: Callable[[Path, str, float], Path], tmp_path: Path, suffix: str
) -> None:
    told = tell(ensemble, convert(THREE_VOICES, suffix, 8.0), tmp_path / "story", "--speakers", "2")

    assert {"girl", "lighthouse"} <= set(words(" ".join(segment["text"] for segment in told["segments"])))
    assert_pictures(told, tmp_path / "story")


def test_the_same_seed_draws_the_same_picture(ensemble: Ensemble, http: httpx.Client) -> None:
    body = {"prompt": "a red boat on the sea, storybook illustration", "seed": 7, "num_inference_steps": 4}

    first, second = (http.post("/v1/images/generations", json=body).json()["data"][0] for _ in range(2))
    other = http.post("/v1/images/generations", json=body | {"seed": 8}).json()["data"][0]

    assert first["b64_json"] == second["b64_json"] != other["b64_json"]


def test_transcription_has_openais_shape(ensemble: Ensemble, http: httpx.Client, speech: Path) -> None:
    with (speech / "librivox.flac").open("rb") as file:
        answer = http.post("/v1/audio/transcriptions", files={"file": file}, data={"response_format": "json"}).json()

    reference = (speech / "librivox.txt").read_text()
    assert jiwer.wer(" ".join(words(reference)), " ".join(words(answer["text"]))) <= 0.1
