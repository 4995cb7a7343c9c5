"""Weights are loaded with little more memory than they take, and never beside what they do not need."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from narrative.errors import WeightsError
from services.trainer.pictures import loading
from services.trainer.pictures.base import BaseModel, load_base
from services.trainer.pictures.examples import PromptedPictures
from services.trainer.pictures.loading import load, load_in_pieces
from tests.integration.trainer.conftest import Train

# diffusers 0.42 makes an array of a tensor the old way, and peft 0.21 looks at deprecated attributes.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny / "sd" / "unet", tmp_path / "unet"))


def test_in_pieces_it_is_the_same_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = {name: value.half() for name, value in load_file(folder / WEIGHTS).items()}
    save_file(half, folder / WEIGHTS)
    monkeypatch.setattr(loading, "_PIECE_NUMBERS", 5_000)
    opened: list[Path] = []
    safe_open = loading.safe_open

    def counted(file: Path, framework: str) -> Any:
        opened.append(file)
        return safe_open(file, framework=framework)

    monkeypatch.setattr(loading, "safe_open", counted)
    loaded = load_in_pieces(UNet2DConditionModel, folder, torch.float32)
    assert len(opened) > 3

    whole = load(UNet2DConditionModel, folder, torch.float32)
    assert loaded.state_dict().keys() == whole.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert loaded.state_dict()[name].dtype == torch.float32
        assert torch.equal(loaded.state_dict()[name], value)
    assert loaded.training == whole.training


def test_a_file_in_pieces_already_is_left_to_diffusers(folder: Path, tmp_path: Path) -> None:
    whole = load(UNet2DConditionModel, folder, torch.float32)
    whole.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert not (tmp_path / "shards" / WEIGHTS).exists()
    loaded = load_in_pieces(UNet2DConditionModel, tmp_path / "shards", torch.float32)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in whole.state_dict().items())


def test_damage_is_named(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=rf"{WEIGHTS}: UNet2DConditionModel cannot be loaded"):
        load_in_pieces(UNet2DConditionModel, folder, torch.float32)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["conv_in.bias"] = torch.zeros(1)
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(WeightsError, match="UNet2DConditionModel cannot be loaded"):
        load_in_pieces(UNet2DConditionModel, folder, torch.float32)


@pytest.mark.parametrize(
    ("more", "beside"),
    [
        ({}, set()),
        ({"train_text_encoder": True}, {"text_encoder"}),
        ({"cache_latents": False}, {"vae"}),
        ({"crop": "random"}, {"vae"}),
    ],
)
def test_encoders_are_gone_before_the_denoiser_comes(
    train: Train,
    palette: Path,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
    beside: set[str],
) -> None:
    seen: list[set[str]] = []
    load_denoiser = BaseModel.load_denoiser

    def watched(base: BaseModel, device: torch.device) -> None:
        assert base.pipeline.unet is None
        seen.append({name for name in ("vae", "text_encoder") if getattr(base.pipeline, name) is not None})
        load_denoiser(base, device)

    monkeypatch.setattr(BaseModel, "load_denoiser", watched)
    chosen = {"instance_prompt": "a pim fox", "output_dir": tmp_path / "pim", "model_id": tiny / "sd", **more}
    trained = train("dreambooth", instance_data_dir=palette, resolution=64, max_train_steps=1, rank=2, **chosen)
    assert trained.status == 0, trained.result
    assert seen == [beside]


def test_a_damaged_denoiser_is_found_before_it_is_loaded(tiny: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny / "sd", tmp_path / "sd"))
    content = (base / "unet" / WEIGHTS).read_bytes()
    (base / "unet" / WEIGHTS).write_bytes(content[:-1000])
    with pytest.raises(WeightsError, match=rf"{WEIGHTS}: UNet2DConditionModel cannot be loaded"):
        load_base(str(base), ["sd"], "no", denoiser_later=True)


def test_layers_that_are_not_there_are_missed_before_anything_is_encoded(
    train: Train, palette: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: Any) -> None:
        raise AssertionError("nothing is to be encoded")

    monkeypatch.setattr(PromptedPictures, "keep_latents", encode)
    chosen = {"instance_prompt": "a pim fox", "output_dir": tmp_path / "pim", "model_id": tiny / "sd"}
    trained = train("dreambooth", instance_data_dir=palette, resolution=64, target_modules=["to_z"], **chosen)
    assert trained.status == 1
    assert "has no layers to_z" in trained.result["error"]
