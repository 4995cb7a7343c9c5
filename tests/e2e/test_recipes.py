"""All four recipes are trained, by REST and from the command line, beside one running ensemble.

A story is heard and drawn with what three of them made, and its picture is edited with what the fourth did.
"""

import base64
import io
import json
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from services.trainer.speech.audio import SAMPLE_RATE_HZ, decode
from tests.e2e.conftest import THREE_VOICES, Ensemble, words

File = tuple[str, bytes]
SAID = "A little girl is sitting on the green grass under a big tree."
QUICKLY = {"max_train_steps": 2, "num_threads": 1}
ON_STORYBOOK = {"model_id": "storybook", "resolution": 64, "gradient_accumulation_steps": 1}
SETTINGS: dict[str, dict[str, Any]] = {
    "style": {**ON_STORYBOOK, "learning_rate": 1e-2, "name": "taught_style", "prompt": "taught seal"},
    "dreambooth": {**ON_STORYBOOK, "learning_rate": 1e-2, "name": "taught_fox", "instance_prompt": "pim the fox"},
    "whisper_lora": {"publish_as": "taught_voice", "language": "en", "train_batch_size": 1, "validation_clips": 1},
    "pix2pix": {**ON_STORYBOOK, "publish_as": "taught_edit"},
}


def picture(shade: int) -> PIL.Image.Image:
    """Two colours side by side."""
    pixels = np.full((64, 64, 3), (220, shade, 30), np.uint8)
    pixels[:, :30] = (20, 30, shade)
    return PIL.Image.fromarray(pixels)


def png(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pictures() -> list[File]:
    return [(f"{shade}.png", png(picture(shade))) for shade in (30, 120, 240)]


def clips() -> list[File]:
    """Beginnings of one recording, and of what is said in it."""
    files = []
    for number, (duration_s, num_words) in enumerate(((1.5, 5), (2.0, 9), (3.5, 13))):
        text = " ".join(SAID.split()[:num_words])
        files += [(f"{number}.wav", beginning(duration_s)), (f"{number}.txt", text.encode())]
    return files


def beginning(duration_s: float) -> bytes:
    """WAV of the first seconds of the example, in which one voice speaks."""
    samples = decode(THREE_VOICES, THREE_VOICES.name, max_s=60.0)[: round(duration_s * SAMPLE_RATE_HZ)]
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def edits() -> list[File]:
    """Two pictures, their negatives, and what that is called."""
    files, rows = [], []
    for number, shade in enumerate((30, 200)):
        names = {"input_image": f"{number}-before.png", "edited_image": f"{number}-after.png"}
        files.append((names["input_image"], png(picture(shade))))
        files.append((names["edited_image"], png(PIL.ImageOps.invert(picture(shade)))))
        rows.append({**names, "edit_prompt": "negative"})
    return [*files, ("metadata.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows).encode())]


def data_of(recipe: str) -> list[File]:
    return {"whisper_lora": clips, "pix2pix": edits}.get(recipe, pictures)()


def last_event(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    """Follows a job to its end."""
    data = ""
    with http.stream("GET", job["links"]["events"], timeout=240) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
    event: dict[str, Any] = json.loads(data)
    return event


@pytest.fixture(scope="module")
def fine_tunes(ensemble: Ensemble) -> Iterator[dict[str, dict[str, Any]]]:
    """What became of a training of every recipe, by its name; two steps each."""
    with httpx.Client(base_url=ensemble.url, timeout=60) as http:
        started = {}
        for recipe, settings in SETTINGS.items():
            dataset = http.post("/v1/datasets", files=[("file", file) for file in data_of(recipe)]).json()
            asked = {"recipe": recipe, "dataset": dataset["id"], "settings": {**settings, **QUICKLY}}
            response = http.post("/v1/fine-tunes", json=asked)
            assert response.status_code == 202, response.text
            started[recipe] = response.json()
        ended = {}
        for recipe, job in started.items():
            assert last_event(http, job) == {"status": "succeeded", "error": None}
            ended[recipe] = http.get(job["links"]["self"]).json()
        yield ended


@pytest.fixture(scope="module")
def story(ensemble: Ensemble, fine_tunes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """story.json of a narrative that was told with what was trained."""
    options = {
        "asr_model": fine_tunes["whisper_lora"]["measures"]["published"],
        "adapters": [{"name": fine_tunes["style"]["adapter"]}, {"name": fine_tunes["dreambooth"]["adapter"]}],
        "num_speakers": 1,
        "language": "en",
        "seed": 1,
        "num_inference_steps": 2,
        "width": 64,
        "height": 64,
    }
    with httpx.Client(base_url=ensemble.url, timeout=60) as http:
        sent = {"file": ("talk.wav", beginning(4.0))}
        response = http.post("/v1/narratives", files=sent, data={"options": json.dumps(options)})
        assert response.status_code == 202, response.text
        narrative = response.json()
        assert last_event(http, narrative) == {"status": "succeeded", "error": None}
        told: dict[str, Any] = http.get(f"/v1/narratives/{narrative['id']}/story.json").json()
        return told


def opened(answer: httpx.Response) -> PIL.Image.Image:
    """The picture of an answer in OpenAI's shape."""
    assert answer.status_code == 200, answer.text
    return PIL.Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))


def differences(one: PIL.Image.Image, other: PIL.Image.Image) -> np.ndarray:
    """How far apart the colours are, 0 to 255."""
    return np.abs(np.asarray(one.convert("RGB"), int) - np.asarray(other.convert("RGB"), int))


def test_every_recipe_offers_its_result_by_name(http: httpx.Client, fine_tunes: dict[str, dict[str, Any]]) -> None:
    assert set(fine_tunes) == {recipe["name"] for recipe in http.get("/v1/recipes").json()["data"]}
    adapters = {adapter["name"]: adapter["training"] for adapter in http.get("/v1/adapters").json()["data"]}
    for recipe in ("style", "dreambooth"):
        assert fine_tunes[recipe]["adapter"] == SETTINGS[recipe]["name"]
        assert adapters[SETTINGS[recipe]["name"]]["recipe"] == recipe
    for recipe in ("whisper_lora", "pix2pix"):
        assert fine_tunes[recipe]["adapter"] is None
        assert fine_tunes[recipe]["measures"]["published"] == SETTINGS[recipe]["publish_as"]


def test_a_story_is_heard_and_drawn_with_what_was_trained(http: httpx.Client, story: dict[str, Any]) -> None:
    assert story["options"]["asr_model"] == "taught_voice"
    assert "taught_voice" in story["models"]["transcription"]
    assert "girl" in words(" ".join(segment["text"] for segment in story["segments"]))
    (speaker,) = story["speakers"]
    (image,) = speaker["images"]
    drawn = PIL.Image.open(io.BytesIO(http.get(image["url"]).content))
    parameters = json.loads(drawn.text["parameters"])
    assert {adapter["name"] for adapter in parameters["adapters"]} == {"taught_style", "taught_fox"}

    again = {
        **{key: parameters[key] for key in ("prompt", "negative_prompt", "seed", "num_inference_steps")},
        "size": "64x64",
    }
    names = [{"name": "taught_style"}, {"name": "taught_fox"}]
    # Where weights lie in memory decides which kernels round them.
    with_all = opened(http.post("/v1/images/generations", json={**again, "adapters": names}))
    assert differences(with_all, drawn).max() <= 2
    for fewer in ([], names[:1], names[1:]):
        other = opened(http.post("/v1/images/generations", json={**again, "adapters": fewer}))
        assert differences(other, drawn).mean() > 2, fewer


def test_a_picture_of_a_story_is_edited_with_what_was_trained(http: httpx.Client, story: dict[str, Any]) -> None:
    url = story["speakers"][0]["images"][0]["url"]

    def edit(model: str) -> httpx.Response:
        asked = {"prompt": "negative", "image_url": url, "model": model, "num_inference_steps": "2", "seed": "1"}
        return http.post("/v1/images/edits", files={name: (None, value) for name, value in asked.items()})

    edited = opened(edit("taught_edit"))
    assert edited.size == (64, 64)
    parameters = json.loads(edited.text["parameters"])
    assert (parameters["model"], parameters["prompt"]) == ("taught_edit", "negative")
    assert differences(edited, PIL.Image.open(io.BytesIO(http.get(url).content))).mean() > 2


def test_what_cannot_be_edited_is_refused(http: httpx.Client, story: dict[str, Any]) -> None:
    url = story["speakers"][0]["images"][0]["url"]

    def refusal(picture: tuple[str | None, str | bytes], model: str) -> tuple[int, str]:
        field = "image" if picture[0] else "image_url"
        answer = http.post("/v1/images/edits", files={field: picture}, data={"prompt": "negative", "model": model})
        return answer.status_code, answer.json()["detail"]

    status, detail = refusal((None, url), "nobody_taught_it")
    assert status == 404
    assert "no model 'nobody_taught_it'; there are storybook" in detail
    assert "is for text-to-image, not for image-editing" in refusal((None, url), "storybook")[1]
    status, detail = refusal(("tiny.png", png(PIL.Image.new("RGB", (9, 9)))), "taught_edit")
    assert status == 422
    assert "multiples of 8 from 64" in detail


@pytest.mark.slow
def test_the_command_line_does_the_same(ensemble: Ensemble, tmp_path: Path) -> None:
    data_settings = {"style": "dataset_dir", "dreambooth": "instance_data_dir", "whisper_lora": "dataset"}
    names = {}
    for recipe, settings in SETTINGS.items():
        data = tmp_path / recipe
        data.mkdir()
        for name, content in data_of(recipe):
            (data / name).write_bytes(content)
        name_setting = "name" if "name" in settings else "publish_as"
        names[recipe] = settings[name_setting].replace("taught", "shown")
        own = {name_setting: names[recipe], data_settings.get(recipe, "data_dir"): str(data)}
        if name_setting == "publish_as":
            own["output_dir"] = str(tmp_path / "result" / recipe)
        ensemble.narrate("train", recipe, "--json", json.dumps({**settings, **QUICKLY, **own}))

    recording, folder = tmp_path / "talk.wav", tmp_path / "story"
    recording.write_bytes(beginning(4.0))
    adapters = ("--adapter", names["style"], "--adapter", f"{names['dreambooth']}:0.5")
    models = ("--model", "storybook", "--asr-model", names["whisper_lora"])
    ensemble.narrate("story", str(recording), "--output", str(folder), "--steps", "2", *adapters, *models)
    told = json.loads((folder / "story.json").read_text(encoding="utf-8"))
    assert "shown_voice" in told["models"]["transcription"]
    drawn = PIL.Image.open(folder / "0.png")
    parameters = json.loads(drawn.text["parameters"])
    assert parameters["model"] == told["models"]["image"] == "storybook"
    assert {adapter["name"]: adapter["weight"] for adapter in parameters["adapters"]} == {
        "shown_style": 1.0,
        "shown_fox": 0.5,
    }

    url, edited = told["speakers"][0]["images"][0]["url"], tmp_path / "edited.png"
    ensemble.narrate("edit", "negative", url, "--model", names["pix2pix"], "--steps", "2", "--output", str(edited))
    picture_edited = PIL.Image.open(edited)
    assert json.loads(picture_edited.text["parameters"])["model"] == "shown_edit"
    # A model edits at the size it was trained for.
    assert differences(picture_edited, drawn.resize(picture_edited.size)).mean() > 2
