"""Pictures with prompts as the loop reads them: one at a time, augmented by the seed of the reading."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from services.trainer.batches import Draw
from services.trainer.pictures.config import Crop
from services.trainer.pictures.examples import PictureExamples, PromptedPictures

SIDE = 32


class Counted:
    """Wide pictures, red on the left, blue on the right, green between, and how often one was opened."""

    def __init__(self, num: int) -> None:
        self.num, self.opened = num, list[int]()

    def __len__(self) -> int:
        return self.num

    def picture(self, index: int) -> PIL.Image.Image:
        self.opened.append(index)
        pixels = np.zeros((SIDE, 4 * SIDE, 3), np.uint8)
        pixels[:, :SIDE, 0] = pixels[:, SIDE : 3 * SIDE, 1] = pixels[:, 3 * SIDE :, 2] = 255
        return PIL.Image.fromarray(pixels)

    def caption(self, index: int) -> str:
        return f"caption {index}"

    def name(self, index: int) -> str:
        return str(index)

    def digest(self) -> str:
        return "digest"


class Autoencoder:
    """Means that are the pixels, a deviation of nothing."""

    def parameters(self) -> Any:
        return iter([torch.zeros(1)])

    def encode(self, pixels: torch.Tensor) -> Any:
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=pixels, std=torch.zeros_like(pixels)))


def prompted(source: Counted, crop: Crop = "stretch", *, flip: bool = False, weight: float = 1.0) -> PromptedPictures:
    prompts = [source.caption(index) for index in range(len(source))]
    return PromptedPictures(source, prompts, SIDE, crop, flip, weight)


def colours(pixels: torch.Tensor) -> tuple[int, int]:
    """Channels that are full at the left and at the right edge."""
    assert pixels.shape == (3, SIDE, SIDE)
    assert pixels.dtype == torch.float32
    return int(pixels[:, 0, 0].argmax()), int(pixels[:, 0, -1].argmax())


def test_a_picture_is_opened_when_its_example_is_asked_for_and_no_other() -> None:
    source = Counted(1000)
    examples = PictureExamples(prompted(source))
    assert (len(examples), source.opened) == (1000, [])
    for index in (7, 999, 7):
        (row,) = examples[Draw(index, 0)]
        assert examples.prompts[int(row["prompts"])] == f"caption {index}"
    assert source.opened == [7, 999, 7]


def test_pixels_are_scaled_from_minus_one_to_one() -> None:
    pixels = prompted(Counted(1)).read(Draw(0, 0))
    assert (float(pixels.min()), float(pixels.max())) == (-1.0, 1.0)
    assert pixels[:, 0, 0].tolist() == [1.0, -1.0, -1.0]


@pytest.mark.parametrize(("crop", "edges"), [("stretch", (0, 2)), ("centre", (1, 1))])
def test_a_square_is_stretched_or_cut(crop: Crop, edges: tuple[int, int]) -> None:
    assert colours(prompted(Counted(1), crop).read(Draw(0, 0))) == edges


def test_half_of_the_readings_are_mirrored_and_the_seed_says_which() -> None:
    pictures = prompted(Counted(1), flip=True)
    first = [colours(pictures.read(Draw(0, seed))) for seed in range(100)]
    assert set(first) == {(0, 2), (2, 0)}
    assert 35 < first.count((2, 0)) < 65
    assert [colours(pictures.read(Draw(0, seed))) for seed in range(100)] == first
    assert {colours(prompted(Counted(1)).read(Draw(0, seed))) for seed in range(20)} == {(0, 2)}


def test_every_seed_has_a_crop_of_its_own() -> None:
    pictures = prompted(Counted(1), "random")
    assert len({colours(pictures.read(Draw(0, seed))) for seed in range(50)}) > 3
    assert torch.equal(pictures.read(Draw(0, 5)), pictures.read(Draw(0, 5)))


def test_latents_that_are_kept_are_mapped_and_those_of_the_very_picture(tmp_path: Path) -> None:
    source = Counted(3)
    pictures = prompted(source, flip=True)
    plain = {seed: pictures.read(Draw(1, seed)) for seed in range(10)}
    pictures.keep_latents(tmp_path / "latents.npy", Autoencoder())
    source.opened.clear()
    for seed, pixels in plain.items():
        mean, deviation = pictures.read(Draw(1, seed)).chunk(2)
        assert torch.equal(mean, pixels)
        assert not deviation.any()
    assert source.opened == []
    assert pictures.kept is not None
    assert isinstance(pictures.kept._kept, np.memmap)


def test_class_pictures_come_in_the_same_batch_behind_the_subject() -> None:
    subject, others = Counted(4), Counted(50)
    others.caption = lambda index: "fox"  # type: ignore[method-assign]
    examples = PictureExamples(prompted(subject), prompted(others, weight=0.5))
    assert len(examples) == 4
    batch = examples.collate([examples[Draw(index, 100 + index)] for index in (2, 0, 1)])
    assert [examples.prompts[number] for number in batch["prompts"]] == [
        "caption 2", "caption 0", "caption 1", "fox", "fox", "fox",
    ]  # fmt: skip
    assert batch["weights"].tolist() == [1, 1, 1, 0.5, 0.5, 0.5]
    assert batch["pictures"].shape == (6, 3, SIDE, SIDE)
    assert int(batch["instances"]) == 3
    assert subject.opened == [2, 0, 1]
    assert len(set(others.opened)) == 3
