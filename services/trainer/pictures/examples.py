"""Pictures with prompts as the loop reads them: lazily, augmented by the seed of each reading."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.trainer.batches import Draw
from services.trainer.pictures.config import Crop
from services.trainer.pictures.images import square, to_tensor
from services.trainer.pictures.latents import TensorFile, moments
from services.trainer.pictures.sources import PictureSource


@dataclass
class PromptedPictures:
    """Pictures of one kind, each with a prompt.

    Attributes:
        prompts: one a picture.
        weight: what their loss counts.
    """

    source: PictureSource
    prompts: Sequence[str]
    resolution: int
    crop: Crop
    flip: bool
    weight: float = 1.0
    kept: TensorFile | None = None

    def __len__(self) -> int:
        return len(self.source)

    def read(self, draw: Draw) -> torch.Tensor:
        """Moments of latents where they are kept, else pixels, float32 (3, resolution, resolution), [-1, 1]."""
        rng = np.random.default_rng(draw.seed)
        flipped = self.flip and bool(rng.integers(2))
        if self.kept is not None:
            return self.kept[2 * draw.index + flipped if self.flip else draw.index]
        return self._pixels(draw.index, flipped, rng)

    def keep_latents(self, path: Path, autoencoder: Any) -> None:
        """Encodes every variant of every picture; only where the crop is not random."""
        assert self.crop != "random", "a random crop has no end of variants"
        device = next(autoencoder.parameters()).device

        def encoded() -> Iterator[torch.Tensor]:
            for index in range(len(self)):
                for flipped in (False, True)[: 1 + self.flip]:
                    yield moments(autoencoder, self._pixels(index, flipped, None)[None].to(device))[0]

        self.kept = TensorFile(path, encoded(), len(self) * (1 + self.flip))

    def _pixels(self, index: int, flipped: bool, rng: np.random.Generator | None) -> torch.Tensor:
        pixels = to_tensor(square(self.source.picture(index), self.resolution, self.crop, rng))
        return pixels.flip(-1) if flipped else pixels


class PictureExamples:
    """One instance picture an example, and beside it a class picture where the prior is to be preserved.

    A batch holds ``pictures`` (pixels or moments), ``prompts`` (numbers of ``self.prompts``) and ``weights``, with all
    instance pictures before all class pictures, and the number of ``instances``.
    """

    def __init__(self, instances: PromptedPictures, classes: PromptedPictures | None = None) -> None:
        self.kinds = [instances, *([classes] if classes else [])]
        self.prompts = sorted({prompt for kind in self.kinds for prompt in kind.prompts})
        self._number = {prompt: number for number, prompt in enumerate(self.prompts)}

    def __len__(self) -> int:
        return len(self.kinds[0])

    def __getitem__(self, draw: Draw) -> list[dict[str, torch.Tensor]]:
        return [self._row(kind, draw) for kind in self.kinds]

    def collate(self, items: list[list[dict[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
        rows = [item[position] for position in range(len(self.kinds)) for item in items]
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return {**batch, "instances": torch.tensor(len(items))}

    def _row(self, kind: PromptedPictures, draw: Draw) -> dict[str, torch.Tensor]:
        # Instances come in the order of the plan; class pictures are drawn at random beside them.
        own = draw if kind is self.kinds[0] else Draw(draw.seed % len(kind), draw.seed)
        return {
            "pictures": kind.read(own),
            "prompts": torch.tensor(self._number[kind.prompts[own.index]]),
            "weights": torch.tensor(kind.weight),
        }
