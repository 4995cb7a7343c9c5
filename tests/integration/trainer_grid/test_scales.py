"""Weights of an adapter and guidance over a sheet, on a tiny random model whose text encoder was trained too."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from services.trainer import cli
from services.trainer.grid.plan import make_grid
from services.trainer.grid.run import Order, draw_grid
from tests.tiny_models import make_tiny_models

# diffusers 0.42 makes an array of a tensor the old way, and peft 0.21 looks at deprecated attributes.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_text_encoder_and_guidance_change_the_pictures_apart_from_the_unet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny_models(tmp_path / "models") / "sd"
    (tmp_path / "pim").mkdir()
    PIL.Image.new("RGB", (64, 64), "red").save(tmp_path / "pim" / "red.png")
    settings = {
        "instance_data_dir": str(tmp_path / "pim"), "instance_prompt": "pim", "model_id": str(model),
        "output_dir": str(tmp_path / "adapter"), "resolution": 64, "max_train_steps": 4, "learning_rate": 0.1,
        "train_text_encoder": True, "tensorboard": False, "device": "cpu", "num_threads": 1,
    }  # fmt: skip
    assert cli.main(["dreambooth", "--json", json.dumps(settings)]) == 0, capsys.readouterr().err

    def drawn(name: str, rows: str, columns: str, **fixed: float) -> dict[str, np.ndarray]:
        plan = make_grid(
            rows, columns, {"prompt": "pim", "inference_steps": 2, "adapter": str(tmp_path / "adapter"), **fixed}
        )
        folder = tmp_path / name
        draw_grid(Order(plan, folder, str(model), "", None, folder / "sheet.png", 64), 1, lambda _: None)
        return {path.stem: np.asarray(PIL.Image.open(path)) for path in (folder / "cells").glob("*.png")}

    text = drawn("text", "text-encoder-scale=0.1,1", "guidance=1,15", unet_scale=0.4)
    assert len({cell.tobytes() for cell in text.values()}) == 4
    unet = drawn("unet", "unet-scale=0.4,1", "text-encoder-scale=0.1,1", guidance=15)
    assert len({cell.tobytes() for cell in unet.values()}) == 4
    for scale in ("0.1", "1"):
        same = text[f"text-encoder-scale-{scale}_guidance-15"], unet[f"unet-scale-0.4_text-encoder-scale-{scale}"]
        assert np.array_equal(*same), "a sheet over other axes has the same picture in the same cell"
