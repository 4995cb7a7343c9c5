"""The parts of Storybook besides the autoencoder: tokenizer, text encoder, UNet and noise schedule."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex as TokenRegex
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from services.trainer.storybook.diffusers_parts import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from services.trainer.storybook.initialise import quiet_residuals

MAX_TOKENS = 77
START, END = "<|startoftext|>", "<|endoftext|>"
# CLIP's own way of cutting text into words (arXiv:2103.00020), so that CLIPTokenizer cuts as the trainer did.
_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Widths and depths; the defaults are those of the shipped weights, which draw a picture in a second.

    Attributes:
        latent_px: side of a latent; the picture's is 8 times as long.
        latent_channels: features of a latent; four are enough for places, a face needs more.
        unet_layers: residual blocks per level.
    """

    text_width: int = 192
    text_layers: int = 2
    unet_channels: tuple[int, ...] = (96, 96, 192)
    head_width: int = 32
    latent_px: int = 16
    latent_channels: int = 12
    unet_layers: int = 1


def read_size(work_dir: Path, latent_px: int) -> ModelSize:
    """Return the size that a run says it has, if it does, else the usual one."""
    path = work_dir / "model_size.json"
    if not path.exists():
        return ModelSize(latent_px=latent_px)
    said = json.loads(path.read_text(encoding="utf-8"))
    return ModelSize(**said | {"unet_channels": tuple(said["unet_channels"])})


def train_tokenizer(captions: Iterable[str], folder: Path, vocabulary: int = 4096) -> CLIPTokenizer:
    """Train a byte-level BPE on captions and save it as a ``CLIPTokenizer``.

    Every byte is in the vocabulary, with and without the end-of-word mark, so any text in any script tokenises.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(TokenRegex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(TokenRegex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(alphabet) - 2,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    learned = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    seen = set(tokens)
    tokens += [token for token, _ in learned if token not in seen]
    tokens += [START, END]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder))
    merges: Any = [  # pairs, whatever the annotation of CLIPTokenizer says
        (line.split(" ")[0], line.split(" ")[1])
        for line in (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#version")
    ]
    made = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        model_max_length=MAX_TOKENS,
    )
    made.save_pretrained(folder)
    return made


def build_text_encoder(tokenizer: CLIPTokenizer, size: ModelSize) -> CLIPTextModel:
    """Make an untrained text encoder for a tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.text_width,
            intermediate_size=size.text_width * 4,
            projection_dim=size.text_width,
            num_hidden_layers=size.text_layers,
            num_attention_heads=size.text_width // 64,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(size: ModelSize) -> UNet2DConditionModel:
    """Make an untrained UNet: plain at full latent resolution, cross-attention below it."""
    levels = len(size.unet_channels)
    unet = UNet2DConditionModel(
        sample_size=size.latent_px,
        in_channels=size.latent_channels,
        out_channels=size.latent_channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (levels - 1)),
        up_block_types=(*("CrossAttnUpBlock2D",) * (levels - 1), "UpBlock2D"),
        block_out_channels=size.unet_channels,
        layers_per_block=size.unet_layers,
        cross_attention_dim=size.text_width,
        # diffusers calls the number of heads attention_head_dim here, for historical reasons.
        attention_head_dim=tuple(channels // size.head_width for channels in size.unet_channels),
        # Few groups: normalising three channels for themselves would take the overall colour out of the picture.
        norm_num_groups=4,
    )
    quiet_residuals(unet)
    nn.init.zeros_(unet.conv_out.weight)
    return unet


def noise_schedule() -> DDPMScheduler:
    """The training schedule: v-prediction with zero terminal SNR (arXiv:2305.08891).

    Without the latter no picture can be much darker or lighter than average, and half of the scenes are at night,
    in space or in the snow.
    """
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
    )


def inference_schedule() -> DPMSolverMultistepScheduler:
    """A second-order solver over the training schedule; good from about 12 steps on."""
    training = noise_schedule().config
    return DPMSolverMultistepScheduler(
        num_train_timesteps=training.num_train_timesteps,
        beta_schedule=training.beta_schedule,
        beta_start=training.beta_start,
        beta_end=training.beta_end,
        prediction_type=training.prediction_type,
        rescale_betas_zero_snr=training.rescale_betas_zero_snr,
        timestep_spacing=training.timestep_spacing,
        steps_offset=training.steps_offset,
        algorithm_type="dpmsolver++",
        solver_order=2,
        lower_order_final=True,
    )
