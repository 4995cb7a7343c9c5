"""Writes SD 1.5, SDXL or Marian with random weights, for measures of time and memory where the real ones cannot be had.

    python -m benchmarks.random_weights sdxl FOLDER [--shrink 8]
    python -m benchmarks.diffusion FOLDER --steps 30 --compile

    python -m benchmarks.random_weights sd15 FOLDER
    python -m benchmarks.train --model FOLDER --resolution 256 --steps 4 --rounds 1

    python -m benchmarks.random_weights marian FOLDER

The architectures are those of stable-diffusion-v1-5 (1.1 billion parameters) and stable-diffusion-xl-base-1.0 (3.5
billion): float16, 2 and 7 GB on disk, made on the GPU where there is one. --shrink divides the widths, for a trial on a
CPU. The pictures are noise. Marian is opus-mt-ru-en (77 million), for CTranslate2; it writes nonsense.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import sentencepiece
import torch
from ctranslate2.converters import TransformersConverter
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
)

from narrative.catalogue import Catalogue
from narrative.settings import CommonSettings

SPEECH = Path(__file__).parents[1] / "tests" / "data" / "speech"
# Of the end of a sentence, which random weights would hardly ever choose.
END_BIAS = 1.5
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def sd15(shrink: int) -> StableDiffusionPipeline:
    """SD 1.5 whose widths are divided by ``shrink``, a power of two up to 8, in float16."""
    side_px = 512 // shrink
    return StableDiffusionPipeline(
        tokenizer=_tokenizer(),
        text_encoder=_made(lambda: CLIPTextModel(_clip(768 // shrink, 12, 12, "quick_gelu", 768 // shrink))),
        unet=_made(
            lambda: UNet2DConditionModel(
                sample_size=side_px // 8, block_out_channels=tuple(w // shrink for w in (320, 640, 1280, 1280)),
                attention_head_dim=8, cross_attention_dim=768 // shrink, norm_num_groups=32 // shrink,
            )
        ),
        vae=_made(lambda: _autoencoder(shrink, side_px, 0.18215)),
        scheduler=PNDMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, skip_prk_steps=True,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl(shrink: int) -> StableDiffusionXLPipeline:
    """SDXL likewise."""
    tokenizer = _tokenizer()
    small, large = 768 // shrink, 1280 // shrink
    side_px = 1024 // shrink
    return StableDiffusionXLPipeline(
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        text_encoder=_made(lambda: CLIPTextModel(_clip(small, 12, 12, "quick_gelu", small))),
        text_encoder_2=_made(lambda: CLIPTextModelWithProjection(_clip(large, 32, 20, "gelu", large))),
        unet=_made(
            lambda: UNet2DConditionModel(
                sample_size=side_px // 8, block_out_channels=(320 // shrink, 640 // shrink, 1280 // shrink),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20),
                cross_attention_dim=small + large, use_linear_projection=True, norm_num_groups=32 // shrink,
                addition_embed_type="text_time", addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=6 * 256 + large,
            )
        ),
        vae=_made(lambda: _autoencoder(shrink, side_px, 0.13025)),
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1,
            timestep_spacing="leading",
        ),
    )  # fmt: skip


def marian(folder: Path) -> int:
    """OPUS-MT's Russian to English for CTranslate2; returns how many parameters it has."""
    with tempfile.TemporaryDirectory() as work:
        spm = Path(work) / "spm"
        lines = (SPEECH / "russian.txt").read_text().splitlines()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=str(spm), vocab_size=8000, hard_vocab_limit=False,
            character_coverage=1.0, minloglevel=2,
        )  # fmt: skip
        model_file = spm.with_suffix(".model").read_bytes()
        known = sentencepiece.SentencePieceProcessor(model_proto=model_file)
        pieces = [known.id_to_piece(number) for number in range(3, known.vocab_size())]
        others = [f"\u2581nothing{number}" for number in range(62518 - 3 - len(pieces))]
        vocabulary = {piece: number for number, piece in enumerate(["</s>", "<unk>", *pieces, *others, "<pad>"])}
        source = Path(work) / "marian"
        pad = vocabulary["<pad>"]
        config = MarianConfig(
            vocab_size=len(vocabulary), d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8,
            decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048, max_position_embeddings=512,
            scale_embedding=True, activation_function="swish", pad_token_id=pad, eos_token_id=0,
            decoder_start_token_id=pad, forced_eos_token_id=0, bos_token_id=None,
        )  # fmt: skip
        torch.manual_seed(0)
        model = MarianMTModel(config)
        model.final_logits_bias[0, 0] = END_BIAS
        model.save_pretrained(source)
        (source / "vocab.json").write_text(json.dumps(vocabulary))
        for name in ("source.spm", "target.spm"):
            (source / name).write_bytes(model_file)
        MarianTokenizer(
            str(source / "source.spm"), str(source / "target.spm"), str(source / "vocab.json"), source_lang="ru"
        ).save_pretrained(source)
        TransformersConverter(str(source), copy_files=["source.spm", "target.spm"]).convert(str(folder), force=True)
        return sum(weights.numel() for weights in model.parameters())


def _tokenizer() -> CLIPTokenizer:
    # Theirs pad otherwise, which costs no time.
    storybook = Catalogue().resolve("storybook", CommonSettings().models_dir)
    return CLIPTokenizer.from_pretrained(storybook / "tokenizer", model_max_length=77)


def _autoencoder(shrink: int, side_px: int, scaling_factor: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=tuple(width // shrink for width in (128, 256, 512, 512)), layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4, norm_num_groups=32 // shrink, sample_size=side_px, scaling_factor=scaling_factor,
    )  # fmt: skip


def _clip(width: int, layers: int, heads: int, activation: str, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
        hidden_act=activation, projection_dim=projection, vocab_size=49408, bos_token_id=49406, eos_token_id=49407,
    )  # fmt: skip


def _made(make: Callable[[], nn.Module]) -> nn.Module:
    """The network with the weights that its own initialisation draws, in float16."""
    torch.manual_seed(0)
    with torch.device(DEVICE):
        return make().eval().half()


ARCHITECTURES: dict[str, Callable[[int], DiffusionPipeline]] = {"sd15": sd15, "sdxl": sdxl}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", choices=[*ARCHITECTURES, "marian"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shrink", type=int, choices=(1, 2, 4, 8), default=1)
    options = parser.parse_args()
    if options.architecture == "marian":
        print(f"{marian(options.folder) / 1e9:.2f} billion parameters, in {options.folder}")
        return
    pipeline = ARCHITECTURES[options.architecture](options.shrink)
    parts = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    numbers = sum(weights.numel() for part in parts for weights in part.parameters())
    pipeline.save_pretrained(options.folder)
    print(f"{numbers / 1e9:.2f} billion parameters, in {options.folder}")


if __name__ == "__main__":
    main()
