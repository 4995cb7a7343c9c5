"""Pictures in, an adapter out, and the next picture is drawn with it: all by REST, in one running ensemble."""

import base64
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import PIL.Image
from safetensors.numpy import load_file


def picture(shade: int) -> bytes:
    """A PNG of two colours."""
    pixels = np.full((80, 96, 3), (220, shade, 30), np.uint8)
    pixels[:, :40] = (20, 30, shade)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def drawn(http: httpx.Client, **more: object) -> bytes:
    request = {"prompt": "a house", "size": "64x64", "num_inference_steps": 4, "seed": 1, **more}
    response = http.post("/v1/images/generations", json=request)
    assert response.status_code == 200, response.text
    return base64.b64decode(response.json()["data"][0]["b64_json"])


def test_what_was_trained_by_rest_is_drawn_with_at_once(http: httpx.Client, tmp_path: Path) -> None:
    assert http.get("/readyz").json() == {"status": "ready"}
    before = drawn(http)
    files = [("file", (f"{shade}.png", picture(shade))) for shade in (0, 120, 240)]
    dataset = http.post("/v1/datasets", files=files).json()
    assert dataset["num_files"] == 3
    settings = {
        "model_id": "storybook",
        "name": "rest_seal",
        "resolution": 64,
        "max_train_steps": 2,
        "log_steps": 1,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-2,
        "num_threads": 1,
    }
    asked = {"recipe": "style", "dataset": dataset["id"], "settings": settings}
    fine_tune = http.post("/v1/fine-tunes", json=asked).json()

    events = []
    with http.stream("GET", fine_tune["links"]["events"], timeout=240) as stream:
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                events.append(value)
            elif name == "data":
                last = json.loads(value)

    assert last == {"status": "succeeded", "error": None}
    assert events.count("step") == 2
    shown = http.get(fine_tune["links"]["self"]).json()
    assert shown["adapter"] == "rest_seal"
    assert shown["measures"]["finalLoss"] > 0
    adapters = {adapter["name"]: adapter["training"] for adapter in http.get("/v1/adapters").json()["data"]}
    assert adapters["rest_seal"]["base"] == "storybook"
    with_adapter = drawn(http, adapters=[{"name": "rest_seal"}])
    assert with_adapter != before
    assert drawn(http) == before
    leaves_and_comes_back(http, tmp_path, pixels(with_adapter))


def leaves_and_comes_back(http: httpx.Client, folder: Path, expected: np.ndarray) -> None:
    """The adapter as a file of kohya's form, published under another name, draws the same picture."""
    command = [sys.executable, "-m", "narrative.cli.main", "adapters"]
    where = ["--url", str(http.base_url)]
    file = folder / "from_kohya.safetensors"
    subprocess.run([*command, "export", "rest_seal", "-o", file, *where], check=True, timeout=60)
    assert any(key.startswith("lora_unet_down_blocks") for key in load_file(file))
    subprocess.run([*command, "import", file, "--licence", "MIT", *where], check=True, timeout=60)
    again = subprocess.run([*command, "import", file, *where], check=False, capture_output=True, text=True, timeout=60)
    assert again.returncode == 1
    assert "there is an adapter 'from_kohya'" in " ".join(again.stderr.split())
    listed = subprocess.run([*command, "list", *where], check=True, capture_output=True, text=True, timeout=60).stdout
    assert "from_kohya" in listed
    # Bit for bit the same weights; where they lie in memory decides which kernels round them.
    difference = pixels(drawn(http, adapters=[{"name": "from_kohya"}])).astype(int) - expected
    assert np.abs(difference).max() <= 2
    subprocess.run([*command, "rm", "from_kohya", *where], check=True, timeout=60)
    request = {"prompt": "a house", "adapters": [{"name": "from_kohya"}]}
    assert http.post("/v1/images/generations", json=request).status_code == 404
    pickled = {"file": ("bad.safetensors", pickle.dumps({"lora": 1}))}
    refused = http.post("/v1/adapters", data={"name": "bad"}, files=pickled)
    assert refused.status_code == 422
    assert "pickle" in refused.json()["detail"]


def pixels(png: bytes) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(png)) as opened:
        return np.asarray(opened.convert("RGB"))
