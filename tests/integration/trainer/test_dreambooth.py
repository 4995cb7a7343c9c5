"""The DreamBooth recipe: on Storybook, and on tiny random SD, SDXL and FLUX where only the wiring is under test."""

import json
from pathlib import Path
from typing import Any

import datasets
import diffusers
import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from services.trainer.pictures.images import read_picture
from tests.integration.trainer.conftest import Train

# diffusers 0.42 makes an array of a tensor the old way, and peft 0.21 looks at deprecated attributes.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
WEIGHTS = "pytorch_lora_weights.safetensors"


def settings(palette: Path, out: Path, model: Path | str, **more: Any) -> dict[str, Any]:
    return {
        "instance_data_dir": palette, "instance_prompt": "a pim fox", "output_dir": out, "model_id": model,
        "resolution": 64, "max_train_steps": 2, "rank": 2, **more,
    }  # fmt: skip


def about(folder: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return described


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
@pytest.mark.parametrize("with_text_encoder", [False, True], ids=["denoiser", "both"])
def test_every_family_trains_and_its_adapter_changes_the_pictures(
    train: Train, palette: Path, tmp_path: Path, tiny: Path, family: str, with_text_encoder: bool
) -> None:
    text = {"train_text_encoder": True, "text_encoder_lr": 0.03} if with_text_encoder else {}
    trained = train(
        "dreambooth",
        **settings(palette, tmp_path / "pim", tiny / family, learning_rate=0.05, max_train_steps=6, **text),
        gradient_checkpointing=with_text_encoder,
    )
    assert trained.status == 0, trained.result

    pipeline = diffusers.DiffusionPipeline.from_pretrained(tiny / family)
    pipeline.set_progress_bar_config(disable=True)

    def draw() -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        drawn = pipeline("pim", num_inference_steps=2, height=64, width=64, generator=generator, output_type="np")
        return np.asarray(drawn.images[0])

    before = draw()
    pipeline.load_lora_weights(tmp_path / "pim", adapter_name="pim")
    assert np.abs(draw() - before).max() > 1e-3
    parts = {name for name, adapters in pipeline.get_list_adapters().items() if "pim" in adapters}
    denoiser = {"transformer" if family == "flux" else "unet"}
    encoders = {"text_encoder", "text_encoder_2"} if family == "sdxl" else {"text_encoder"}
    assert parts == (denoiser | encoders if with_text_encoder else denoiser)
    changed = load_file(tmp_path / "pim" / WEIGHTS)
    for part in parts:
        assert any(
            value.abs().max() > 0 for key, value in changed.items() if key.startswith(f"{part}.") and "lora_B" in key
        )


def test_rates_of_denoiser_and_text_encoder_are_apart(train: Train, palette: Path, tmp_path: Path, tiny: Path) -> None:
    chosen = settings(palette, tmp_path / "pim", tiny / "sd", train_text_encoder=True, learning_rate=3e-4, log_steps=1)
    apart = train("dreambooth", **chosen, text_encoder_lr=1e-5, lr_scheduler="linear")
    assert [step["rates"] for step in apart.events("step")] == [
        pytest.approx({"unet": 3e-4, "text_encoder": 1e-5}),
        pytest.approx({"unet": 1.5e-4, "text_encoder": 0.5e-5}),
    ]
    one = train("dreambooth", **chosen)
    assert one.events("step")[0]["rates"] == {"unet": 3e-4, "text_encoder": 3e-4}


def test_prodigy_finds_its_rate(train: Train, palette: Path, tmp_path: Path, tiny: Path) -> None:
    chosen = settings(palette, tmp_path / "pim", tiny / "sd", optimizer="prodigy", max_train_steps=12, log_steps=1)
    chosen["prodigy_use_bias_correction"] = False  # Which would hold its estimate back for the first steps.
    rates = [step["rates"]["unet"] for step in train("dreambooth", **chosen).events("step")]
    assert rates[0] == pytest.approx(1e-6)
    assert rates[-1] > 10 * rates[0]
    refused = train("dreambooth", **chosen, train_text_encoder=True, text_encoder_lr=0.5)
    assert "prodigy finds one rate" in refused.result["error"]
    low = train("dreambooth", **chosen, learning_rate=1e-4)
    assert "is low for prodigy" in "".join(note["message"] for note in low.events("note"))


def test_class_pictures_are_drawn_once_and_learned_beside(
    train: Train, palette: Path, tmp_path: Path, tiny: Path
) -> None:
    prior = {
        "with_prior_preservation": True, "class_prompt": "fox", "num_class_images": 3, "sample_batch_size": 2,
        "class_data_root": tmp_path / "class", "train_batch_size": 2, "learning_rate": 0.01,
    }  # fmt: skip
    first = train("dreambooth", **settings(palette, tmp_path / "a", tiny / "sd", **prior))
    assert first.status == 0, first.result
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "class").iterdir()}
    assert sorted(pictures) == ["class-00000.png", "class-00001.png", "class-00002.png"]

    (tmp_path / "class" / "class-00001.png").unlink()
    again = train("dreambooth", **settings(palette, tmp_path / "b", tiny / "sd", **prior))
    assert again.result["finalLoss"] == first.result["finalLoss"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "class").iterdir()} == pictures

    light = train("dreambooth", **settings(palette, tmp_path / "c", tiny / "sd", **prior), prior_loss_weight=0.0)
    without = train(
        "dreambooth", **settings(palette, tmp_path / "d", tiny / "sd", **prior | {"with_prior_preservation": False})
    )
    assert light.result["finalLoss"] < first.result["finalLoss"]
    assert without.result["finalLoss"] != light.result["finalLoss"]  # The noise is drawn for one picture more.
    assert (about(tmp_path / "a")["class"], about(tmp_path / "a")["trigger_word"]) == ("fox", "a pim fox")


def test_captions_come_from_the_folder_or_the_instance_prompt(
    train: Train, palette: Path, tmp_path: Path, tiny: Path
) -> None:
    (palette / "0.txt").write_text("red and blue")
    missing = train("dreambooth", **settings(palette, tmp_path / "a", tiny / "sd"))
    assert "1.png: no caption in 1.txt, though others have one" in missing.result["error"]
    for index in (1, 2):
        (palette / f"{index}.txt").write_text("blue")
    texts = train("dreambooth", **settings(palette, tmp_path / "a", tiny / "sd"))
    assert texts.events("note")[0]["message"] == "3 pictures, 3 of them with a caption of their own"
    ignored = train("dreambooth", **settings(palette, tmp_path / "b", tiny / "sd", caption_column=""))
    assert "0 of them" in ignored.events("note")[0]["message"]

    rows = [{"file_name": f"{index}.png", "caption": f"picture {index}"} for index in range(3)]
    (palette / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    wrong = train("dreambooth", **settings(palette, tmp_path / "c", tiny / "sd"))
    assert "metadata.jsonl, line 1: no 'text'; it has caption" in wrong.result["error"]
    right = train("dreambooth", **settings(palette, tmp_path / "c", tiny / "sd", caption_column="caption"))
    assert right.status == 0
    (palette / "2.png").unlink()
    gone = train("dreambooth", **settings(palette, tmp_path / "d", tiny / "sd", caption_column="caption"))
    assert "2.png is captioned, but there is no such picture" in gone.result["error"]
    assert not (tmp_path / "d").exists()


def test_a_data_set_with_columns(train: Train, palette: Path, tmp_path: Path, tiny: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    pictures = [read_picture(path) for path in sorted(palette.iterdir())]
    rows = datasets.Dataset.from_dict({"photo": pictures, "words": ["one", "two", "three"]})
    rows.cast_column("photo", datasets.Image()).to_parquet(tmp_path / "set" / "train.parquet")
    chosen = settings(palette, tmp_path / "pim", tiny / "sd") | {"dataset_name": tmp_path / "set"}
    del chosen["instance_data_dir"], chosen["instance_prompt"]

    wrong = train("dreambooth", **chosen)
    assert "has no column 'image'; it has photo, words" in wrong.result["error"]
    nameless = train("dreambooth", **chosen, image_column="photo")
    assert "row 0 has no caption; give instance_prompt" in nameless.result["error"]
    trained = train("dreambooth", **chosen, image_column="photo", caption_column="words")
    assert trained.status == 0, trained.result
    assert about(tmp_path / "pim")["num_pictures"] == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"dataset_name": "x"}, "give one of instance_data_dir and dataset_name"),
        ({"with_prior_preservation": True}, "prior preservation needs class_prompt"),
        ({"text_encoder_lr": 1e-5}, "text_encoder_lr says nothing without train_text_encoder"),
        ({"instance_prompt": ""}, "0.png has no caption; give instance_prompt"),
        ({"resolution": 60}, "resolution: Input should be a multiple of 8"),
    ],
)
def test_settings_that_contradict_one_another(
    train: Train, palette: Path, tmp_path: Path, tiny: Path, more: dict[str, Any], message: str
) -> None:
    trained = train("dreambooth", **settings(palette, tmp_path / "out", tiny / "sd") | more)
    assert trained.status == 1
    assert message in trained.result["error"]


def test_random_crops_samples_averages_and_half_precision(
    train: Train, palette: Path, tmp_path: Path, tiny: Path
) -> None:
    trained = train(
        "dreambooth",
        **settings(palette, tmp_path / "pim", tiny / "sd", crop="random", random_flip=True, sample_steps=2),
        ema_decay=0.9, mixed_precision="bf16", dataloader_num_workers=1,
    )  # fmt: skip
    assert trained.status == 0, trained.result
    sample = Path(trained.events("sample")[0]["path"])
    with PIL.Image.open(sample) as picture:
        assert picture.size == (64, 64)
    assert {value.dtype for value in load_file(tmp_path / "pim" / WEIGHTS).values()} == {torch.float32}


@pytest.mark.parametrize("model", ["storybook"])
def test_the_subject_is_learned(train: Train, palette: Path, tmp_path: Path, model: str) -> None:
    """Its own pictures are denoised better than before, also at noise that training never drew."""
    chosen = settings(palette, tmp_path / "pim", model, rank=8, learning_rate=3e-3, train_batch_size=3)
    trained = train("dreambooth", **chosen | {"max_train_steps": 40}, train_text_encoder=True)
    losses = [epoch["loss"] for epoch in trained.events("epoch")]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
