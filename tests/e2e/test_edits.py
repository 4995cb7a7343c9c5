"""An edit is taught by REST, and a picture of the running ensemble is edited with it at once."""

import base64
import io
import json

import httpx
import numpy as np
import PIL.Image
import PIL.ImageOps


def png(picture: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def edits() -> list[tuple[str, tuple[str, bytes]]]:
    """Two pictures, their negatives, and what that is called."""
    files, rows = [], []
    for number, shade in enumerate((30, 200)):
        pixels = np.full((64, 64, 3), (220, shade, 30), np.uint8)
        pixels[:, :30] = (20, 30, shade)
        before = PIL.Image.fromarray(pixels)
        for name, picture in (("before", before), ("after", PIL.ImageOps.invert(before))):
            files.append(("file", (f"{number}-{name}.png", png(picture))))
        rows.append(
            {"input_image": f"{number}-before.png", "edit_prompt": "negative", "edited_image": f"{number}-after.png"}
        )
    metadata = "".join(f"{json.dumps(row)}\n" for row in rows)
    return [*files, ("file", ("metadata.jsonl", metadata.encode()))]


def test_an_edit_that_was_trained_by_rest_is_done_at_once(http: httpx.Client) -> None:
    drawing = {"prompt": "a house", "size": "64x64", "num_inference_steps": 2, "seed": 1, "response_format": "url"}
    url = http.post("/v1/images/generations", json=drawing).json()["data"][0]["url"]

    def edit(**fields: str) -> httpx.Response:
        asked = {"prompt": "negative", "image_url": url, "num_inference_steps": "2", "seed": "1", **fields}
        return http.post("/v1/images/edits", files={name: (None, value) for name, value in asked.items()})

    unknown = edit(model="inverted")
    assert unknown.status_code == 404
    assert "no model 'inverted'; there are storybook" in unknown.json()["detail"]
    assert "is for text-to-image, not for image-editing" in edit(model="storybook").json()["detail"]

    dataset = http.post("/v1/datasets", files=edits()).json()
    settings = {
        "model_id": "storybook",
        "resolution": 64,
        "max_train_steps": 2,
        "num_threads": 1,
        "publish_as": "inverted",
    }
    asked = {"recipe": "pix2pix", "dataset": dataset["id"], "settings": settings}
    response = http.post("/v1/fine-tunes", json=asked)
    assert response.status_code == 202, response.text
    with http.stream("GET", response.json()["links"]["events"], timeout=240) as stream:
        last = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: ")][
            -1
        ]
    assert last == {"status": "succeeded", "error": None}
    shown = http.get(response.json()["links"]["self"]).json()
    assert shown["measures"]["published"] == "inverted"

    edited = edit(model="inverted")
    assert edited.status_code == 200, edited.text
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(edited.json()["data"][0]["b64_json"])))
    assert picture.size == (64, 64)
    made_with = json.loads(picture.text["parameters"])
    assert (made_with["model"], made_with["prompt"]) == ("inverted", "negative")
    tiny = http.post(
        "/v1/images/edits",
        files={"image": png(PIL.Image.new("RGB", (9, 9)))},
        data={"prompt": "x", "model": "inverted"},
    )
    assert tiny.status_code == 422
    assert "multiples of 8 from 64" in tiny.json()["detail"]
