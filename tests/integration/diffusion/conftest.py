"""Servers on tiny models with random weights, and ways to talk to them."""

import asyncio
import io
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model_state_dict

from narrative.objects import Objects
from narrative.registry import ADAPTERS, Registry
from narrative.runtime.channel import open_channel, rpc_errors
from narrative.runtime.server import ServiceServer
from narrative.v1 import diffusion_pb2, diffusion_pb2_grpc
from services.diffusion.__main__ import make_service
from services.diffusion.settings import DiffusionSettings
from tests.tiny_models import SIDE_PX, make_tiny_models

Serve = Callable[..., AbstractAsyncContextManager[grpc.aio.Channel]]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the tiny models sd, sdxl, flux and pix2pix."""
    return make_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of adapters: seal and mist for the tiny SD (UNet and text encoder), giant for the tiny SDXL."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name, base in ((1, "seal", "sd"), (2, "mist", "sd"), (3, "giant", "sdxl")):
        torch.manual_seed(seed)
        cls = StableDiffusionPipeline if base == "sd" else StableDiffusionXLPipeline
        pipeline = (
            cls.from_pretrained(tiny / base, safety_checker=None) if base == "sd" else cls.from_pretrained(tiny / base)
        )
        layers = {}
        for part, targets in (("unet", ["to_q", "to_v"]), ("text_encoder", ["q_proj", "v_proj"])):
            module = getattr(pipeline, part)
            module.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=targets, init_lora_weights=False))
            state = get_peft_model_state_dict(module)
            layers[part] = {key: tensor * 10 for key, tensor in state.items()}
        cls.save_lora_weights(
            folder / name, unet_lora_layers=layers["unet"], text_encoder_lora_layers=layers["text_encoder"]
        )
    return folder


@pytest.fixture(scope="session")
def store(adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Object store in which they are published."""
    folder = tmp_path_factory.mktemp("objects")
    for path in adapters.iterdir():
        publish(folder, path.name, path)
    return folder


def publish(store: Path, name: str, folder: Path) -> None:
    """Publishes the adapter that a folder holds."""
    files = {"pytorch_lora_weights.safetensors": folder / "pytorch_lora_weights.safetensors"}
    asyncio.run(Registry(Objects(str(store)), ADAPTERS).publish(name, files, {}))


@pytest.fixture(scope="session")
def serve(tiny: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Starts a server on the tiny models and opens a channel to it."""
    copies = tmp_path_factory.mktemp("copies")

    @asynccontextmanager
    async def start(*names: str, **settings: object) -> AsyncIterator[grpc.aio.Channel]:
        chosen = DiffusionSettings(
            models=[str(tiny / name) for name in names],
            port=0,
            **{
                "drain_s": 5.0,
                "dtype": "float32",
                "num_threads": 1,
                "adapters_dir": copies,
                "object_store_url": str(store),
                **settings,
            },
        )
        server = ServiceServer(make_service(chosen), chosen)
        port = await server.start()
        await server.load()
        try:
            async with open_channel(f"127.0.0.1:{port}") as channel:
                yield channel
        finally:
            await server.stop()

    return start


@dataclass
class Drawing:
    """What came back for one request.

    Attributes:
        steps: (picture, step, of how many), in order.
        files: PNG file by picture.
        chunks: number of chunks by picture.
    """

    steps: list[tuple[int, int, int]] = field(default_factory=list)
    files: dict[int, bytes] = field(default_factory=dict)
    last: dict[int, diffusion_pb2.ImageChunk] = field(default_factory=dict)

    async def read(self, responses: AsyncIterable[Any]) -> "Drawing":
        async for response in responses:
            if response.HasField("step"):
                self.steps.append((response.step.image_index, response.step.step, response.step.num_steps))
            else:
                chunk = response.chunk
                assert chunk.image_index not in self.last, "a chunk after the last one"
                self.files[chunk.image_index] = self.files.get(chunk.image_index, b"") + chunk.data
                if chunk.last:
                    self.last[chunk.image_index] = chunk
        return self

    def pixels(self, index: int = 0) -> np.ndarray:
        """uint8 (height, width, 3)."""
        with PIL.Image.open(io.BytesIO(self.files[index])) as picture:
            return np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="session")
def draw() -> Callable[..., Awaitable[Drawing]]:
    """Asks a channel for pictures; fields of the request are keyword arguments, prompt and seed have defaults."""

    async def ask(channel: grpc.aio.Channel, **fields: Any) -> Drawing:
        request = diffusion_pb2.GenerateImagesRequest(**{"prompt": "a red house", "seed": 7, **fields})
        with rpc_errors("diffusion"):
            return await Drawing().read(diffusion_pb2_grpc.DiffusionServiceStub(channel).GenerateImages(request))

    return ask


@pytest.fixture(scope="session")
def edit() -> Callable[..., Awaitable[Drawing]]:
    """Sends a picture file to be edited."""

    async def ask(channel: grpc.aio.Channel, source: bytes, chunk_bytes: int = 1000, **fields: Any) -> Drawing:
        image_guidance, frame_bytes = fields.pop("image_guidance_scale", None), fields.pop("frame_bytes", [])
        generation = diffusion_pb2.GenerateImagesRequest(**{"prompt": "make it red", "seed": 7, **fields})
        options = diffusion_pb2.EditOptions(
            generation=generation, image_guidance_scale=image_guidance, frame_bytes=frame_bytes
        )

        async def messages() -> AsyncIterator[diffusion_pb2.EditImagesRequest]:
            yield diffusion_pb2.EditImagesRequest(options=options)
            for start in range(0, len(source), chunk_bytes):
                yield diffusion_pb2.EditImagesRequest(chunk=source[start : start + chunk_bytes])

        with rpc_errors("diffusion"):
            return await Drawing().read(diffusion_pb2_grpc.DiffusionServiceStub(channel).EditImages(messages()))

    return ask


@pytest.fixture(scope="session")
def picture_file() -> Callable[..., bytes]:
    """Makes a picture file of one colour."""

    def make(width: int = SIDE_PX, height: int = SIDE_PX, kind: str = "PNG", colour: str = "green") -> bytes:
        file = io.BytesIO()
        PIL.Image.new("RGB", (width, height), colour).save(file, kind)
        return file.getvalue()

    return make
