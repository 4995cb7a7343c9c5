"""The learner of edits: a UNet that sees the original beside the noise (InstructPix2Pix, arXiv:2211.09800)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import nn

from services.trainer.batches import Draw
from services.trainer.learner import Learner
from services.trainer.pictures.base import BaseModel
from services.trainer.pictures.edits import EditSource
from services.trainer.pictures.images import square, to_tensor
from services.trainer.pictures.latents import TensorFile, draw_latents, moments
from services.trainer.pictures.objective import Objective
from services.trainer.pictures.text import KeptText


class EditExamples:
    """Edits as the loop reads them: ``frames``, ``edited`` (pixels or what was computed of them) and ``prompts``.

    Number 0 of ``self.prompts`` is the empty one, which stands for a dropped instruction.

    Args:
        beside: more edits whose instructions are to have numbers, for examples that share ``prompts``.
    """

    def __init__(self, source: EditSource, resolution: int, beside: EditSource | None = None) -> None:
        self._source, self._resolution = source, resolution
        self._instructions = _instructions(source)
        others = _instructions(beside) if beside is not None else []
        self.prompts = ["", *sorted({text for text in [*self._instructions, *others] if text})]
        self._number = {prompt: number for number, prompt in enumerate(self.prompts)}
        self._kept: tuple[TensorFile, TensorFile] | None = None

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, draw: Draw) -> dict[str, torch.Tensor]:
        index = draw.index
        frames, edited = (
            (kept[index] for kept in self._kept) if self._kept else (self._frames(index), self._edited(index))
        )
        return {"frames": frames, "edited": edited, "prompts": torch.tensor(self._number[self._instructions[index]])}

    def collate(self, items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def keep_latents(self, folder: Path, autoencoder: Any) -> None:
        """Encodes every picture once."""
        device = next(autoencoder.parameters()).device
        indices = range(len(self))
        frames = (original_latents(autoencoder, self._frames(index)[None].to(device))[0] for index in indices)
        edited = (moments(autoencoder, self._edited(index)[None].to(device))[0] for index in indices)
        self._kept = (
            TensorFile(folder / "frames.npy", frames, len(self)),
            TensorFile(folder / "edited.npy", edited, len(self)),
        )

    def _frames(self, index: int) -> torch.Tensor:
        return torch.stack([self._pixels(picture) for picture in self._source.frames(index)])

    def _edited(self, index: int) -> torch.Tensor:
        return self._pixels(self._source.edited(index))

    def _pixels(self, picture: PIL.Image.Image) -> torch.Tensor:
        # Stretched: cropping could cut away what the instruction is about.
        return to_tensor(square(picture, self._resolution, "stretch"))


def _instructions(source: EditSource) -> list[str]:
    return [source.instruction(index) for index in range(len(source))]


@torch.no_grad()
def original_latents(autoencoder: Any, frames: torch.Tensor) -> torch.Tensor:
    """Latents of the originals as the pipeline gives them to the UNet: the mode, not scaled, frame behind frame.

    Args:
        frames: float32 (batch, frames, 3, height, width), [-1, 1].

    Returns:
        float32 (batch, frames x channels, height/8, width/8).
    """
    batch = len(frames)
    modes = autoencoder.encode(frames.flatten(0, 1)).latent_dist.mode()
    latents: torch.Tensor = modes.reshape(batch, -1, *modes.shape[-2:])
    return latents


def widen_input(unet: Any, num_channels: int) -> None:
    """Gives the UNet more input channels; those it had keep their weights, the new ones begin with zeros."""
    narrow: nn.Conv2d = unet.conv_in
    if narrow.in_channels == num_channels:
        return
    wide = nn.Conv2d(num_channels, narrow.out_channels, narrow.kernel_size, narrow.stride, narrow.padding)  # type: ignore[arg-type]
    nn.init.zeros_(wide.weight)
    with torch.no_grad():
        wide.weight[:, : narrow.in_channels] = narrow.weight
        if narrow.bias is not None and wide.bias is not None:
            wide.bias.copy_(narrow.bias)
    unet.conv_in = wide
    unet.register_to_config(in_channels=num_channels)


class EditLearner(Learner):
    """Denoises the edited picture, told the instruction and shown the original, each left out now and then.

    Args:
        kept_text: the instructions, number 0 being the empty one.
        dropout: share of examples without instruction, without original, and without both.
    """

    def __init__(self, base: BaseModel, kept_text: KeptText, dropout: float) -> None:
        super().__init__()
        self._base, self._kept_text, self._dropout = base, kept_text, dropout
        self._objective = Objective(base)
        self._sample: tuple[PIL.Image.Image, str, int] | None = None
        self._held_out: tuple[EditExamples, int, int] | None = None
        self.unet = base.denoiser

    def sample_with(self, picture: PIL.Image.Image, instruction: str, seed: int) -> None:
        """What to edit when samples are asked for."""
        self._sample = (picture, instruction, seed)

    def validate_on(self, held_out: EditExamples, batch_size: int, seed: int) -> None:
        """Edits that are not learned; they share the prompts of those that are."""
        self._held_out = (held_out, batch_size, seed)

    def validation_loss(self) -> float | None:
        """The loss on all held-out edits, nothing left out, at the same noise whenever it is asked for."""
        if self._held_out is None:
            return None
        examples, batch_size, seed = self._held_out
        device, total = next(self.parameters()).device, 0.0
        torch.manual_seed(seed)
        for start in range(0, len(examples), batch_size):
            numbers = range(start, min(start + batch_size, len(examples)))
            batch = examples.collate([examples[Draw(number, 0)] for number in numbers])
            total += float(self({name: value.to(device) for name, value in batch.items()})) * len(numbers)
        return total / len(examples)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        frames, edited = batch["frames"], batch["edited"]
        if frames.dim() == 5:
            frames = original_latents(self._base.pipeline.vae, frames)
            edited = moments(self._base.pipeline.vae, edited)
        latents = draw_latents(self._base.autoencoder_config, edited)
        # One draw for both, so that the share without either is as large as that without one of them.
        chance = torch.rand(len(latents), device=latents.device)
        share = self._dropout if self.training else 0.0
        without_text = chance < 2 * share
        without_original = (chance >= share) & (chance < 3 * share)
        conditions = self._kept_text.conditions(batch["prompts"].masked_fill(without_text, 0))
        frames = frames * (~without_original)[:, None, None, None]
        return self._objective.losses(latents, conditions, frames).mean()

    def sample(self, step: int) -> Mapping[str, PIL.Image.Image]:
        del step
        assert self._sample is not None, "sample_with() comes first"
        picture, instruction, seed = self._sample
        drawn = self._base.pipeline(
            instruction,
            image=picture,
            num_inference_steps=self._base.num_steps,
            guidance_scale=self._base.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(seed),
        )
        return {"0": drawn.images[0]}
