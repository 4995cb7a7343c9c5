"""Models that were trained here: offered by name in a running service, and gone when they are deleted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from narrative.errors import InvalidInput, InvalidParameter, ModelNotFound, WeightsError
from narrative.objects import Objects
from narrative.registry import PICTURE_MODELS, Registry
from narrative.v1 import common_pb2, common_pb2_grpc

# diffusers 0.42 makes an array of a tensor the old way.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def files_below(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., object]:
    """Publishes a folder as a model."""
    registry = Registry(Objects(str(tmp_path / "objects")), PICTURE_MODELS)

    async def run(name: str, folder: Path) -> None:
        await registry.publish(name, files_below(folder), {"licence": "CC0-1.0"})

    run.delete = registry.delete  # type: ignore[attr-defined]
    return run


def widened(model: Path, folder: Path, frames: int) -> Path:
    """A copy of a model whose UNet, random again, is shown several frames."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "unet" / "config.json").read_text()) | {"in_channels": 4 * (1 + frames)}
    torch.manual_seed(frames)
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    return folder


async def test_a_model_is_offered_as_soon_as_it_is_published(serve, draw, edit, picture_file, publish, tiny, tmp_path):
    settings = {"object_store_url": str(tmp_path / "objects"), "published_models_dir": tmp_path / "copies"}
    async with serve("sd", **settings, max_published_models=1) as channel:

        async def names() -> set[str]:
            stub = common_pb2_grpc.ModelServiceStub(channel)
            answer = await stub.ListModels(common_pb2.ListModelsRequest())
            return {model.id for model in answer.models if model.task == common_pb2.TASK_IMAGE_EDITING}

        with pytest.raises(ModelNotFound, match="no model 'night'; there are sd"):
            await edit(channel, picture_file(), model="night")
        assert await names() == set()

        await publish("night", tiny / "pix2pix")
        assert await names() == {"night"}
        first = await edit(channel, picture_file(), model="night", num_inference_steps=2)
        with pytest.raises(InvalidParameter, match="'night' is for image-editing"):
            await draw(channel, model="night")
        with pytest.raises(ModelNotFound, match="name one of sd, night"):
            await edit(channel, picture_file())
        with pytest.raises(InvalidParameter, match="not for image-editing"):
            await edit(channel, picture_file(), model="sd")
        for name in ("../night", "nigh"):
            with pytest.raises(ModelNotFound, match="there are sd, night"):
                await edit(channel, picture_file(), model=name)

        # Another version under the same name; one in memory has to make room for it and for others.
        await publish("night", widened(tiny / "pix2pix", tmp_path / "another", 1))
        await publish("dusk", tiny / "pix2pix")
        other = await edit(channel, picture_file(), model="night", num_inference_steps=2)
        assert (first.pixels() != other.pixels()).any()
        same = await edit(channel, picture_file(), model="dusk", num_inference_steps=2)
        assert (first.pixels() == same.pixels()).all()

        await publish.delete("night")
        with pytest.raises(ModelNotFound, match="there are sd, dusk"):
            await edit(channel, picture_file(), model="night")


async def test_a_video_is_edited(serve, edit, picture_file, publish, tiny, tmp_path):
    settings = {"object_store_url": str(tmp_path / "objects"), "published_models_dir": tmp_path / "copies"}
    await publish("mover", widened(tiny / "pix2pix", tmp_path / "mover", 3))
    async with serve("sd", **settings) as channel:

        async def moved(*colours: str) -> np.ndarray:
            frames = [picture_file(colour=colour) for colour in colours]
            asked = {"model": "mover", "num_inference_steps": 2, "num_images": 2}
            sizes = [len(frame) for frame in frames]
            return (await edit(channel, b"".join(frames), frame_bytes=sizes, **asked)).pixels(1)

        there = await moved("red", "green", "blue")
        assert there.shape == (64, 64, 3)
        assert (there == await moved("red", "green", "blue")).all()
        # Every frame is looked at, and so is their order.
        assert (there != await moved("red", "green", "white")).any()
        assert (there != await moved("green", "red", "blue")).any()
        with pytest.raises(InvalidParameter, match="edits the 3 frames of a video; 1 came"):
            await edit(channel, picture_file(), model="mover")
        with pytest.raises(InvalidInput, match="frame_bytes add up to 3"):
            await edit(channel, picture_file(), model="mover", frame_bytes=[1, 2])


async def test_what_was_published_broken_is_said(serve, edit, picture_file, publish, tiny, tmp_path):
    settings = {"object_store_url": str(tmp_path / "objects"), "published_models_dir": tmp_path / "copies"}
    broken = tmp_path / "broken"
    shutil.copytree(tiny / "pix2pix", broken)
    (broken / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut off")
    await publish("broken", broken)
    async with serve("sd", **settings) as channel:
        with pytest.raises(WeightsError):
            await edit(channel, picture_file(), model="broken")
