"""The pix2pix recipe: one frame on Storybook and served, 20 frames on a tiny random SD, and bad data."""

import asyncio
import io
import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from narrative.runtime.channel import open_channel
from narrative.runtime.server import ServiceServer
from narrative.v1 import diffusion_pb2, diffusion_pb2_grpc
from services.diffusion.__main__ import make_service
from services.diffusion.settings import DiffusionSettings
from services.trainer.batches import Draw
from services.trainer.pictures import edits as edit_sources
from services.trainer.pictures import videos
from services.trainer.pictures.base import load_base
from services.trainer.pictures.edit_learner import EditExamples, EditLearner, original_latents, widen_input
from services.trainer.pictures.edits import folder_edits
from services.trainer.pictures.images import read_picture
from services.trainer.pictures.text import KeptText
from services.trainer.recipes.pix2pix.config import Config
from tests.integration.trainer.conftest import Train

# diffusers 0.42 makes an array of a tensor the old way.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def edits(palette: Path) -> Path:
    """Three pictures and their negatives."""
    rows = []
    for path in sorted(palette.glob("?.png")):
        PIL.ImageOps.invert(read_picture(path)).save(palette / f"{path.stem}-negative.png")
        rows.append({"input_image": path.name, "edit_prompt": "negative", "edited_image": f"{path.stem}-negative.png"})
    (palette / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return palette


@pytest.fixture
def videos_folder(tmp_path: Path) -> Path:
    """Two videos of 21 random frames of 128 px."""
    assert videos.main(["mini", str(tmp_path / "videos")]) == 0
    return tmp_path / "videos"


def settings(data: Path, out: Path, model: Path | str, **more: Any) -> dict[str, Any]:
    return {
        "data_dir": data, "output_dir": out, "model_id": model, "resolution": 64, "train_batch_size": 2,
        "max_train_steps": 2, **more,
    }  # fmt: skip


def test_an_edit_is_trained_and_served(
    train: Train, edits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARRATIVE_TRAINER__OBJECT_STORE_URL", str(tmp_path / "objects"))
    chosen = settings(edits, tmp_path / "negative", "storybook", train_batch_size=3, max_train_steps=30)
    trained = train("pix2pix", **chosen, learning_rate=1e-3, sample_steps=30, ema_decay=0.5, publish_as="inverted")
    assert trained.status == 0, trained.result
    assert trained.result["published"] == "inverted"
    losses = [epoch["loss"] for epoch in trained.events("epoch")]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:4])
    assert [sample["step"] for sample in trained.events("sample")] == [30]

    asyncio.run(_edit_with_it(tmp_path))


async def _edit_with_it(tmp_path: Path) -> None:
    own = DiffusionSettings(
        models=["storybook"],
        object_store_url=str(tmp_path / "objects"),
        published_models_dir=tmp_path / "copies",
        port=0,
        dtype="float32",
        num_threads=1,
    )
    server = ServiceServer(make_service(own), own)
    port = await server.start()
    await server.load()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            options = diffusion_pb2.EditOptions(
                generation=diffusion_pb2.GenerateImagesRequest(
                    prompt="negative", model="inverted", seed=1, num_inference_steps=3
                )
            )
            original = io.BytesIO()
            PIL.Image.new("RGB", (64, 64), "red").save(original, "PNG")
            requests = [
                diffusion_pb2.EditImagesRequest(options=options),
                diffusion_pb2.EditImagesRequest(chunk=original.getvalue()),
            ]
            stub = diffusion_pb2_grpc.DiffusionServiceStub(channel)
            png = b"".join([response.chunk.data async for response in stub.EditImages(iter(requests))])
        with PIL.Image.open(io.BytesIO(png)) as picture:
            assert picture.size == (64, 64)
    finally:
        await server.stop()


def test_twenty_frames_make_84_channels_and_five_steps_bring_the_loss_down(
    train: Train, videos_folder: Path, tmp_path: Path, tiny: Path
) -> None:
    chosen = settings(
        videos_folder, tmp_path / "video", tiny / "sd", num_frames=20, learning_rate=0.02, max_train_steps=5
    )
    trained = train("pix2pix", **chosen, log_steps=1, conditioning_dropout_prob=0.0)
    assert trained.status == 0, trained.result
    losses = [step["loss"] for step in trained.events("step")]
    assert losses[-1] < losses[0]
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "video" / "unet")
    assert unet.config["in_channels"] == unet.conv_in.in_channels == 84


def test_held_out_edits_are_measured_and_change_nothing(
    train: Train, edits: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(edits, tmp_path / "held-out")
    rows = [json.loads(line) for line in (edits / "metadata.jsonl").read_text().splitlines()]
    other = [{**row, "edit_prompt": "upside down"} for row in rows[:2]]
    (tmp_path / "held-out" / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in other))
    chosen = settings(edits, tmp_path / "a", tiny / "sd", max_train_steps=4, conditioning_dropout_prob=0.3)
    plain = train("pix2pix", **chosen)
    assert [epoch["validation_loss"] for epoch in plain.events("epoch")] == [None, None]
    weights = load_file(tmp_path / "a" / "unet" / "diffusion_pytorch_model.safetensors")

    learned: list[tuple[bool, int]] = []
    forward = EditLearner.forward

    def seen(learner: EditLearner, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        learned.append((learner.training, len(batch["prompts"])))
        return forward(learner, batch)

    monkeypatch.setattr(EditLearner, "forward", seen)
    held_out = {"validation_data_dir": tmp_path / "held-out"}
    trained = train("pix2pix", **chosen | {"output_dir": tmp_path / "b"}, **held_out)
    assert trained.status == 0, trained.result
    assert trained.events("note")[0]["message"] == "3 edits, 2 held out"
    losses = [epoch["validation_loss"] for epoch in trained.events("epoch")]
    assert len(losses) == 2
    assert all(loss > 0 for loss in losses)
    assert learned == [(True, 2), (True, 1), (False, 2)] * 2
    again = load_file(tmp_path / "b" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in weights.items())

    still = chosen | {"output_dir": tmp_path / "c", "learning_rate": 1e-30}
    told = [epoch["validation_loss"] for epoch in train("pix2pix", **still, **held_out).events("epoch")]
    assert told[0] == told[1], "the same weights, so the same noise"
    direct = train("pix2pix", **still | {"output_dir": tmp_path / "d"}, **held_out, cache_latents=False)
    np.testing.assert_allclose([epoch["validation_loss"] for epoch in direct.events("epoch")], told, rtol=1e-3)
    nowhere = train("pix2pix", **chosen, validation_data_dir=tmp_path / "nowhere")
    assert (nowhere.status, nowhere.result["field"]) == (1, "validation_data_dir")


def test_the_defaults_are_those_of_the_specification(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, output_dir=tmp_path / "out")
    assert (config.resolution, config.train_batch_size, config.num_train_epochs) == (256, 4, 100)
    assert (config.learning_rate, config.checkpointing_steps) == (1e-4, 500)
    assert (config.input_column, config.prompt_column, config.edited_column) == (
        "input_image", "edit_prompt", "edited_image",
    )  # fmt: skip


def test_frames_of_built_videos_are_opened_when_they_are_asked_for(
    videos_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert videos.main(["build", str(videos_folder), str(tmp_path / "arrow")]) == 0
    opened: list[str] = []

    def counted(path: Path) -> PIL.Image.Image:
        opened.append(path.name)
        return read_picture(path)

    monkeypatch.setattr(edit_sources, "read_picture", counted)
    examples = EditExamples(edit_sources.arrow_video_edits(tmp_path / "arrow", 20), 64)
    assert (len(examples), opened) == (2, [])
    example = examples[Draw(1, 0)]
    assert opened == [f"{number:02d}.jpg" for number in range(20)]
    assert example["frames"].shape == (20, 3, 64, 64)


@pytest.mark.parametrize(
    "length",
    [
        {"max_train_steps": 3},
        {"num_train_epochs": 2},
        {"num_train_epochs": 9, "early_stop_patience": 1, "early_stop_min_delta": 100.0},
    ],
    ids=["steps", "epochs", "early"],
)
def test_what_is_trained_already_is_written_without_latents(
    train: Train, edits: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, length: dict[str, Any]
) -> None:
    monkeypatch.setenv("NARRATIVE_TRAINER__OBJECT_STORE_URL", str(tmp_path / "objects"))
    chosen = settings(edits, tmp_path / "negative", tiny / "sd")
    del chosen["max_train_steps"]
    chosen |= length
    assert train("pix2pix", **chosen, keep_checkpoints=True).status == 0
    weights = (tmp_path / "negative" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    monkeypatch.delattr(EditExamples, "keep_latents")
    again = train("pix2pix", **chosen, publish_as="negative", licence="CC0-1.0")
    assert again.status == 0, again.result
    assert again.result["published"] == "negative"
    assert (tmp_path / "negative" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == weights


def test_videos_are_checked_and_built(
    train: Train, videos_folder: Path, tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert videos.main(["check", str(videos_folder)]) == 0
    assert videos.main(["build", str(videos_folder), str(tmp_path / "arrow")]) == 0
    built = datasets.load_from_disk(tmp_path / "arrow")
    assert [len(frames) for frames in built["input_frames"]] == [20, 20]
    assert built["edit_prompt"][:] == ["drop_object", "cover_object"]
    assert built[0]["edited_image"].size == (128, 128)
    assert built.features["input_frames"] == datasets.Sequence(datasets.Value("string"))
    assert isinstance(built.features["edited_image"], datasets.Image)
    assert built[1]["input_frames"] == [str(videos_folder / "0001" / f"{number:02d}.jpg") for number in range(20)]
    settings_of_both = {"num_frames": 20, "max_train_steps": 1}
    from_folder = train("pix2pix", **settings(videos_folder, tmp_path / "a", tiny / "sd", **settings_of_both))
    from_arrow = train("pix2pix", **settings(tmp_path / "arrow", tmp_path / "b", tiny / "sd", **settings_of_both))
    assert from_arrow.result["finalLoss"] == from_folder.result["finalLoss"]

    (videos_folder / "0000" / "03.jpg").unlink()
    (videos_folder / "0001" / "05.jpg").write_bytes(b"no picture")
    PIL.Image.new("RGB", (64, 64)).save(videos_folder / "0001" / "20.jpg")
    assert videos.main(["check", str(videos_folder)]) == 1
    said = capsys.readouterr().err
    for problem in ("03.jpg is missing", "05.jpg: not a readable picture", "frames of different sizes"):
        assert problem in said
    assert videos.main(["mini", str(videos_folder)]) == 1


def test_a_widened_unet_begins_as_the_one_it_was(tiny: Path) -> None:
    base = load_base(str(tiny / "sd"), ["sd"], "no")
    torch.manual_seed(0)
    latents, states = torch.randn(1, 4, 32, 32), torch.randn(1, 77, 16)
    before = base.denoiser(latents, 10, states).sample
    widen_input(base.denoiser, 84)
    after = base.denoiser(torch.cat([latents, torch.randn(1, 80, 32, 32)], dim=1), 10, states).sample
    torch.testing.assert_close(after, before)


def test_instruction_and_original_are_left_out_as_often_as_asked(edits: Path, tiny: Path, tmp_path: Path) -> None:
    base = load_base(str(tiny / "sd"), ["sd"], "no")
    examples = EditExamples(folder_edits(edits, ("input_image", "edit_prompt", "edited_image")), 64)
    kept_text = KeptText(base, examples.prompts, tmp_path, torch.device("cpu"))
    learner = EditLearner(base, kept_text, dropout=0.2)
    told: list[tuple[bool, bool]] = []
    (empty,) = kept_text.conditions(torch.tensor([0]))["states"]

    def losses(latents: torch.Tensor, conditions: dict[str, torch.Tensor], originals: torch.Tensor) -> torch.Tensor:
        told.extend(
            (bool((states == empty).all()), not bool(original.any()))
            for states, original in zip(conditions["states"], originals, strict=True)
        )
        return torch.zeros(len(latents))

    learner._objective.losses = losses  # type: ignore[method-assign]
    batch = examples.collate([examples[Draw(0, 0)]])
    batch["frames"] = original_latents(base.pipeline.vae, batch["frames"]).repeat(2000, 1, 1, 1)
    batch["edited"] = torch.zeros(2000, 8, 32, 32)
    batch["prompts"] = batch["prompts"].repeat(2000)
    torch.manual_seed(0)
    learner(batch)
    shares = [told.count(case) / len(told) for case in ((True, False), (True, True), (False, True), (False, False))]
    np.testing.assert_allclose(shares, [0.2, 0.2, 0.2, 0.4], atol=0.04)
    told.clear()
    learner.eval()(batch)
    assert set(told) == {(False, False)}


def test_columns_may_have_any_names(train: Train, edits: Path, tmp_path: Path, tiny: Path, monkeypatch: Any) -> None:
    rows = [json.loads(line) for line in (edits / "metadata.jsonl").read_text().splitlines()]
    wrong = train("pix2pix", **settings(edits, tmp_path / "a", tiny / "sd", prompt_column="text"))
    assert "metadata.jsonl, line 1: no 'text'; it has input_image, edit_prompt, edited_image" in wrong.result["error"]
    named = [
        {"file_name": row["input_image"], "text": row["edit_prompt"], "after_file_name": row["edited_image"]}
        for row in rows
    ]
    (edits / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in named))
    other = settings(edits, tmp_path / "a", tiny / "pix2pix", prompt_column="text", edited_column="after")
    assert train("pix2pix", **other, cache_latents=False).status == 0

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    columns = {
        "input_image": [read_picture(edits / row["input_image"]) for row in rows],
        "edit_prompt": [row["edit_prompt"] for row in rows],
        "edited_image": [read_picture(edits / row["edited_image"]) for row in rows],
    }
    table = datasets.Dataset.from_dict(columns)
    for column in ("input_image", "edited_image"):
        table = table.cast_column(column, datasets.Image())
    table.to_parquet(tmp_path / "set" / "train.parquet")
    hub = settings(edits, tmp_path / "b", tiny / "sd") | {"dataset_name": tmp_path / "set"}
    del hub["data_dir"]
    trained = train("pix2pix", **hub)
    assert trained.status == 0, trained.result
    assert json.loads((tmp_path / "b" / "training.json").read_text())["num_edits"] == 3


def test_bad_data_is_named(train: Train, edits: Path, videos_folder: Path, tmp_path: Path, tiny: Path) -> None:
    def error(data: Path, **more: Any) -> str:
        trained = train("pix2pix", **settings(data, tmp_path / "out", tiny / "sd", **more))
        assert trained.status == 1
        assert not (tmp_path / "out").exists()
        return str(trained.result["error"])

    assert "nowhere: no such folder" in error(tmp_path / "nowhere")
    assert "no metadata.jsonl in it" in error(videos_folder)
    assert "this recipe trains" in error(edits, model_id=tiny / "sdxl")
    assert "edits cannot be mirrored" in error(edits, random_flip=True)
    assert "skip-bad-images" in error(edits, skip_bad_images=True)
    assert "publish_as: String should match" in error(edits, publish_as="../night")
    (edits / "1.png").write_bytes(b"no picture")
    assert "1.png: not a readable picture" in error(edits)
    (edits / "1.png").unlink()
    assert "1.png" in error(edits)
    (videos_folder / "0001" / "07.jpg").unlink()
    assert f"{videos_folder / '0001'}: frame 07.jpg is missing" in error(videos_folder, num_frames=20)
    (videos_folder / "metadata.json").write_text('{"video_path": 1}')
    assert "is expected" in error(videos_folder, num_frames=20)
