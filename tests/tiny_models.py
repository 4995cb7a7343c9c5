"""Tiny models with random weights in diffusers form: the real pipeline classes, when only the wiring is under test."""

import json
from pathlib import Path

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
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

SIDE_PX = 64


def make_tiny_models(folder: Path) -> Path:
    """Writes the models sd, sdxl, flux and pix2pix into a folder; every call makes the same ones."""
    torch.manual_seed(0)
    for name, make in {"sd": _sd, "sdxl": _sdxl, "flux": _flux, "pix2pix": _pix2pix}.items():
        make(folder / name)
    return folder


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
        sample_size=SIDE_PX,
        **more,
    )


def _unet(width: int, in_channels: int = 4, **more: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE_PX // 2,
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
    (folder / "generation_config.json").write_text(json.dumps({"width": SIDE_PX, "height": SIDE_PX}))
