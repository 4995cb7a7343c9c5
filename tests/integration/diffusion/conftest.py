"""Tiny models with random weights in diffusers form: the real pipeline classes, when only the wiring is under test."""

import io
import json
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
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig, get_peft_model_state_dict
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from narrative.runtime.channel import open_channel, rpc_errors
from narrative.runtime.server import ServiceServer
from narrative.v1 import diffusion_pb2, diffusion_pb2_grpc
from services.diffusion.__main__ import make_service
from services.diffusion.settings import DiffusionSettings

SIDE = 64
Serve = Callable[..., AbstractAsyncContextManager[grpc.aio.Channel]]


def _clip_tokenizer(folder: Path) -> CLIPTokenizer:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def _t5_tokenizer() -> T5Tokenizer:
    words = ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = [*((token, 0.0) for token in ("<pad>", "</s>", "<unk>")), *((word, -2.0) for word in words)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def _clip_config(width: int, projection: int = 16) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=54, hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=projection, bos_token_id=52, eos_token_id=53, pad_token_id=53, hidden_act="gelu",
    )  # fmt: skip


def _vae(channels: int = 4, **more: object) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=SIDE,
        **more,
    )


def _unet(width: int, in_channels: int = 4, **more: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE // 2,
        in_channels=in_channels,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=width,
        attention_head_dim=2,
        **more,
    )


def _sd(folder: Path) -> None:
    StableDiffusionPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_clip_config(16)), tokenizer=_clip_tokenizer(folder.parent / "t-sd"),
        unet=_unet(16), scheduler=PNDMScheduler(skip_prk_steps=True), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps({"num_inference_steps": 3, "guidance_scale": 4.0}))


def _pix2pix(folder: Path) -> None:
    StableDiffusionInstructPix2PixPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_clip_config(16)), tokenizer=_clip_tokenizer(folder.parent / "t-p2p"),
        unet=_unet(16, in_channels=8), scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def _sdxl(folder: Path) -> None:
    tokenizer = _clip_tokenizer(folder.parent / "t-xl")
    unet = _unet(
        32, addition_embed_type="text_time", addition_time_embed_dim=8, use_linear_projection=True,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )  # fmt: skip
    StableDiffusionXLPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_clip_config(16)), tokenizer=tokenizer, tokenizer_2=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(16)), unet=unet, scheduler=DDIMScheduler(),
        add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip


def _flux(folder: Path) -> None:
    t5 = T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    FluxPipeline(
        vae=_vae(4, shift_factor=0.1, scaling_factor=0.4, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModel(_clip_config(16)), tokenizer=_clip_tokenizer(folder.parent / "t-flux"),
        text_encoder_2=T5EncoderModel(t5), tokenizer_2=_t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=16, guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    ).save_pretrained(folder)  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps({"width": SIDE, "height": SIDE}))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the tiny models sd, sdxl, flux and pix2pix."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, make in {"sd": _sd, "sdxl": _sdxl, "flux": _flux, "pix2pix": _pix2pix}.items():
        make(folder / name)
    return folder


@pytest.fixture(scope="session")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters folder: seal and mist for the tiny SD (UNet and text encoder), giant for the tiny SDXL."""
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
def serve(tiny: Path, adapters: Path) -> Serve:
    """Starts a server on the tiny models and opens a channel to it."""

    @asynccontextmanager
    async def start(*names: str, **settings: object) -> AsyncIterator[grpc.aio.Channel]:
        chosen = DiffusionSettings(
            models=[str(tiny / name) for name in names],
            adapters_dir=adapters,
            port=0,
            **{"drain_s": 5.0, "dtype": "float32", "num_threads": 1, **settings},
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
        image_guidance = fields.pop("image_guidance_scale", None)
        generation = diffusion_pb2.GenerateImagesRequest(**{"prompt": "make it red", "seed": 7, **fields})
        options = diffusion_pb2.EditOptions(generation=generation, image_guidance_scale=image_guidance)

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

    def make(width: int = SIDE, height: int = SIDE, kind: str = "PNG", colour: str = "green") -> bytes:
        file = io.BytesIO()
        PIL.Image.new("RGB", (width, height), colour).save(file, kind)
        return file.getvalue()

    return make
