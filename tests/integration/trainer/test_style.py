"""The style recipe: its contract, both of its scenarios, and its adapter in a running service."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from narrative.runtime.channel import open_channel
from narrative.runtime.server import ServiceServer
from narrative.settings import CommonSettings
from narrative.v1 import diffusion_pb2, diffusion_pb2_grpc
from services.diffusion.__main__ import make_service
from services.diffusion.settings import DiffusionSettings
from services.trainer.pictures import text
from services.trainer.pictures.base import BaseModel
from services.trainer.pictures.text import Conditions, encode_text
from services.trainer.recipes.style.config import Config
from tests.integration.trainer.conftest import Train

# diffusers 0.42 makes an array of a tensor the old way, and peft 0.21 looks at deprecated attributes.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
WEIGHTS = "pytorch_lora_weights.safetensors"


def test_the_defaults_are_those_of_the_specification(tmp_path: Path) -> None:
    config = Config(dataset_dir=tmp_path)
    assert config.model_id == "CompVis/stable-diffusion-v1-4"
    assert (config.resolution, config.random_flip) == (256, True)
    assert (config.train_batch_size, config.gradient_accumulation_steps) == (1, 4)
    assert (config.optimizer, config.learning_rate, config.num_train_epochs) == ("adamw", 1e-4, 100)
    assert (config.rank, config.lora_alpha, config.lora_dropout) == (16, 32, 0.05)
    assert config.target_modules == ["to_q", "to_k", "to_v", "to_out.0"]
    assert config.name == "artist_seal"


def test_palette_present_gives_an_artifact_without_a_network(
    train: Train, palette: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a training asked the network for something")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    contract = {
        "datasetDir": str(palette),
        "outputDir": str(tmp_path / "artist_seal"),
        "modelId": "storybook",
        "resolution": 64,
        "trainBatchSize": 1,
        "gradientAccumulationSteps": 4,
        "learningRate": 1e-4,
        "numTrainEpochs": 2,
    }
    trained = train("style", json=json.dumps(contract))

    assert trained.status == 0
    assert trained.result == {
        "success": True,
        "outputDir": str(tmp_path / "artist_seal"),
        "epochsCompleted": 2,
        "finalLoss": trained.result["finalLoss"],
    }
    assert [epoch["epoch"] for epoch in trained.events("epoch")] == [1, 2]
    assert trained.result["finalLoss"] == trained.events("epoch")[-1]["loss"] > 0
    assert sorted(file.name for file in (tmp_path / "artist_seal").iterdir()) == [WEIGHTS, "training.json"]
    about = json.loads((tmp_path / "artist_seal" / "training.json").read_text())
    assert (about["recipe"], about["base"], about["rank"], about["alpha"]) == ("style", "storybook", 16, 32)
    assert about["trigger_word"] == "artist_seal"
    assert about["data_digest"].startswith("sha256:")


def test_the_adapter_is_the_specifications_to_the_letter(
    train: Train, palette: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "artist_seal"
    out.mkdir()
    for name in ("training.json", "old.safetensors"):
        (out / name).write_text("{}")
    # Captions do not count, not even one that has no picture.
    (palette / "0.txt").write_text("a red house")
    (palette / "licence.txt").write_text("free for all")
    told: list[str] = []

    def encoded(base: BaseModel, prompts: Sequence[str], device: torch.device) -> Conditions:
        told.extend(prompts)
        return encode_text(base, prompts, device)

    monkeypatch.setattr(text, "encode_text", encoded)
    trained = train(
        "style", dataset_dir=palette, output_dir=out, model_id=tiny / "sd", resolution=64, num_train_epochs=1
    )
    assert trained.status == 0, trained.result
    assert set(told) == {"artist_seal"}
    assert sorted(file.name for file in out.iterdir()) == [WEIGHTS, "training.json"]
    with safe_open(out / WEIGHTS, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
        said = {name.removeprefix("unet."): value for name, value in json.loads(_metadata(file)).items()}
    layers = {name.split(".lora_")[0].split("_block.")[-1] for name in shapes}
    assert {layer.rsplit("attn", 1)[-1][2:] for layer in layers} == {"to_q", "to_k", "to_v", "to_out.0"}
    assert {name.rsplit(".lora_", 1)[-1] for name in shapes} == {"A.weight", "B.weight"}
    assert {shape[0] for name, shape in shapes.items() if "lora_A" in name} == {16}
    assert {name: said[name] for name in ("r", "lora_alpha", "lora_dropout", "bias")} == {
        "r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "bias": "none"
    }  # fmt: skip


def _metadata(file: safe_open) -> str:
    """What diffusers keeps of the adapter in the header."""
    (text,) = [value for value in file.metadata().values() if value.startswith("{")]
    return str(text)


def test_no_secret_and_nothing_of_the_data_is_told(
    train: Train, palette: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {"HF_TOKEN": "hf_tellnobody", "AWS_SECRET_ACCESS_KEY": "aws-tellnobody", "API_KEY": "tellnobody"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    (palette / "0.txt").write_text("a caption of tellnobody's")
    settings = {"dataset_dir": palette, "model_id": tiny / "sd", "resolution": 64, "tensorboard": True}
    more = {"max_train_steps": 2, "checkpointing_steps": 1, "keep_checkpoints": True, "log_steps": 1}
    trained = train("style", output_dir=tmp_path / "seal", **settings, **more)
    assert trained.status == 0, trained.result
    written = [file for name in ("seal", "seal.run") for file in (tmp_path / name).rglob("*") if file.is_file()]
    assert len(written) > 3
    assert not [file for file in written if b"tellnobody" in file.read_bytes()]
    assert "tellnobody" not in trained.said + json.dumps(trained.result)
    # Numbers and words only: no tensor, no pixels.
    events = [json.loads(line) for line in trained.said.splitlines()]
    assert {event["event"] for event in events} == {"step", "epoch", "checkpoint", "note"}
    assert not [event for event in events if any(isinstance(value, list) for value in event.values())]
    assert max(map(len, trained.said.splitlines())) < 500


def test_palette_missing_is_an_error_and_leaves_nothing(train: Train, tmp_path: Path) -> None:
    places = {"dataset_dir": tmp_path / "palette", "output_dir": tmp_path / "artist_seal"}
    trained = train("style", model_id="storybook", **places)
    assert trained.status == 1
    assert not trained.result["success"]
    assert f"{tmp_path / 'palette'}: no such folder" in trained.result["error"]
    assert "Data set cannot be used" in trained.said
    assert "Traceback" not in trained.said
    assert list(tmp_path.iterdir()) == []


def _break(palette: Path, how: str) -> None:
    if how == "empty":
        for file in palette.iterdir():
            file.unlink()
    elif how == "unreadable":
        (palette / "1.png").write_bytes((palette / "1.png").read_bytes()[:60])
    elif how == "tiny":
        PIL.Image.new("RGB", (20, 200)).save(palette / "2.png")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty", "palette: no pictures in it"),
        ("unreadable", "1.png: not a readable picture\n"),
        ("tiny", "2.png: 20x200 pixels, at least 64 a side"),
    ],
)
def test_bad_pictures_are_named(train: Train, palette: Path, tmp_path: Path, how: str, message: str) -> None:
    _break(palette, how)
    trained = train("style", dataset_dir=palette, output_dir=tmp_path / "out", model_id="storybook")
    assert trained.status == 1
    assert message in trained.result["error"]
    assert [path.name for path in tmp_path.iterdir()] == ["palette"]


def test_bad_pictures_can_be_left_out(train: Train, palette: Path, tmp_path: Path, tiny: Path) -> None:
    _break(palette, "unreadable")
    settings = {"dataset_dir": palette, "output_dir": tmp_path / "out", "model_id": tiny / "sd", "resolution": 64}
    trained = train("style", **settings, num_train_epochs=1, skip_bad_images=True)
    assert trained.status == 0
    assert "left out" in trained.events("note")[0]["message"]
    assert json.loads((tmp_path / "out" / "training.json").read_text())["num_pictures"] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_id": "flux"}, "is a FluxPipeline; this recipe trains StableDiffusionPipeline"),
        ({"model_id": "palette"}, "a diffusers folder is needed"),
        ({"model_id": "no-such-model"}, "no model 'no-such-model' in the catalogue"),
        ({"target_modules": ["to_z"]}, "has no layers to_z"),
        ({"output_dir": "palette"}, "holds something that no training has written"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    train: Train, palette: Path, tmp_path: Path, tiny: Path, settings: dict[str, object], message: str
) -> None:
    places = {"flux": tiny / "flux", "palette": palette}
    chosen = {name: places.get(str(value), value) for name, value in settings.items()}
    defaults = {"dataset_dir": palette, "output_dir": tmp_path / "out", "model_id": tiny / "sd", "resolution": 64}
    trained = train("style", **(defaults | chosen))
    assert trained.status == 1
    assert message in trained.result["error"]
    assert not (tmp_path / "out").exists()
    assert len(list(palette.iterdir())) == 3


def test_a_resumed_training_gives_the_same_weights(train: Train, palette: Path, tmp_path: Path) -> None:
    settings = {
        "dataset_dir": palette, "model_id": "storybook", "resolution": 64, "gradient_accumulation_steps": 2,
        "checkpointing_steps": 2, "keep_checkpoints": True,
    }  # fmt: skip
    train("style", **settings, output_dir=tmp_path / "whole", max_train_steps=4)
    train("style", **settings, output_dir=tmp_path / "halves", max_train_steps=2)
    # What is said of the result may change meanwhile.
    said = {"name": "other", "licence": "CC0-1.0", "sample_prompt": "a seal"}
    resumed = train("style", **settings, **said, output_dir=tmp_path / "halves", max_train_steps=4)

    assert "going on from" in resumed.events("note")[0]["message"]
    whole, halves = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "halves"))
    assert whole.keys() == halves.keys()
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value, rtol=0, atol=0, msg=name)


def test_the_loss_falls_and_latents_need_not_be_kept(train: Train, palette: Path, tmp_path: Path) -> None:
    settings = {
        "dataset_dir": palette, "model_id": "storybook", "resolution": 64, "learning_rate": 2e-3,
        "gradient_accumulation_steps": 1, "train_batch_size": 3, "num_train_epochs": 40,
    }  # fmt: skip
    kept = train("style", **settings, output_dir=tmp_path / "kept")
    losses = [epoch["loss"] for epoch in kept.events("epoch")]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])

    few = settings | {"num_train_epochs": 2}
    first = [epoch["loss"] for epoch in train("style", **few, output_dir=tmp_path / "a").events("epoch")]
    again = train("style", **few, output_dir=tmp_path / "b", cache_latents=False)
    np.testing.assert_allclose([epoch["loss"] for epoch in again.events("epoch")], first, rtol=1e-3)


async def test_a_running_service_draws_with_it_at_once(
    palette: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARRATIVE_DATA_DIR", str(tmp_path))
    settings = DiffusionSettings(common=CommonSettings(), port=0, dtype="float32", num_threads=1, drain_s=5.0)
    server = ServiceServer(make_service(settings), settings)
    port = await server.start()
    await server.load()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:

            async def draw(*adapters: diffusion_pb2.Adapter) -> bytes:
                request = diffusion_pb2.GenerateImagesRequest(
                    prompt="a house", seed=1, num_inference_steps=4, width=64, height=64, adapters=adapters
                )
                stub = diffusion_pb2_grpc.DiffusionServiceStub(channel)
                return b"".join([response.chunk.data async for response in stub.GenerateImages(request)])

            before = await draw()
            flags = ("--dataset-dir", str(palette), "--model-id", "storybook", "--resolution", "64")
            more = ("--num-train-epochs", "4", "--learning-rate", "1e-2", "--num-threads", "1", "--no-tensorboard")
            command = [sys.executable, "-m", "services.trainer.cli", "style", *flags, *more]
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False, timeout=120)
            result = json.loads(done.stdout)
            assert result["outputDir"] == str(tmp_path / "trained" / "artist_seal")
            assert result["adapter"] == "artist_seal"
            with_adapter = await draw(diffusion_pb2.Adapter(name="artist_seal", weight=1.0))
            assert await draw() == before != with_adapter
    finally:
        await server.stop()


def test_alpha_over_rank_survives_loading(train: Train, palette: Path, tmp_path: Path, tiny: Path) -> None:
    train(
        "style", dataset_dir=palette, output_dir=tmp_path / "seal", model_id=tiny / "sd", resolution=64,
        num_train_epochs=1, rank=4, lora_alpha=12,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline.from_pretrained(tiny / "sd", safety_checker=None)
    pipeline.load_lora_weights(tmp_path / "seal", adapter_name="seal")
    scales = {layer.scaling["seal"] for layer in pipeline.unet.modules() if hasattr(layer, "scaling")}
    assert scales == {3.0}
