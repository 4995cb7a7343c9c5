"""The road of a training on a lent GPU, end to end on the CPU with a tiny model: pack, chunk, shards, chunk, export."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from services.trainer.storybook import (
    composing,
    concepts,
    cutouts,
    dataset,
    device_training,
    device_vae,
    model,
    on_device,
    parts,
    weight_shards,
)
from services.trainer.storybook.device_options import DeviceOptions, from_values
from services.trainer.storybook.device_training import DeviceRun
from services.trainer.storybook.export import load_pipeline
from services.trainer.storybook.plan import Planner
from services.trainer.storybook.scene_pool import ScenePool
from services.trainer.storybook.scenes import Composer
from services.trainer.storybook.train_text_to_image import tokenise

# diffusers 0.42 makes an array of a tensor the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TINY = DeviceOptions(
    size_px=64, text_width=64, text_layers=1, unet_channels=(16, 32), vae_channels=(8, 8, 16, 16), head_width=16,
    batch=4, total_s=60, vae_s=0.3, vae_batch=2, vae_crop_px=32, reserve_s=0.2, warmup_steps=2, workers=1, scenes=6,
    refresh_steps=3, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pack an archive whose cut-outs are all the same square."""
    work_dir = tmp_path_factory.mktemp("packing")
    icons = {
        concept.icon: {"body": '<rect width="16" height="16" fill="#c33"/>'} for concept in concepts.load().values()
    }
    files = {}
    for set_name in ("noto", "fluent-flat", "fluent"):
        files[set_name] = work_dir / f"{set_name}.json"
        files[set_name].write_text(json.dumps({"width": 16, "height": 16, "icons": icons}), encoding="utf-8")
    book = dataset.CaptionBook(Planner(concepts.load()))
    model.train_tokenizer((book.caption(seed, 0) for seed in range(300)), work_dir / "tokenizer")
    path = work_dir / "parts.tar.xz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutouts, "fetch", lambda _: files)
        parts.pack(work_dir, path)
    return path


@pytest.fixture
def work_dir(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with two composed shards."""
    monkeypatch.setattr(dataset, "SHARD_SCENES", 3)
    parts.unpack(archive, tmp_path)
    composer = _composer(tmp_path)
    for shard in range(2):
        path = dataset.shard_path(tmp_path, 64, shard)
        dataset.compose_shard(composer, path)
        composing.write_tokens(tmp_path, path)
    return tmp_path


def _composer(work_dir: Path) -> Composer:
    return Composer(cutouts.CutoutLibrary(parts.icon_files(work_dir)), concepts.load(), 64)


def _started(work_dir: Path) -> tuple[DeviceRun, ScenePool]:
    run = DeviceRun(work_dir, TINY)
    pool = ScenePool(work_dir, 64, torch.device("cpu"), 2)
    run.vae.eval()
    pool.encode(run.vae, 2, delete=False)
    return run, pool


def test_a_chunk_on_the_same_machine_goes_on_exactly(work_dir: Path) -> None:
    whole, pool = _started(work_dir)
    losses = [float(whole.advance(pool)) for _ in range(5)]
    first, _ = _started(work_dir)
    for _ in range(2):
        first.advance(pool)
    first.save()
    second, _ = _started(work_dir)
    second.resume()
    assert [float(second.advance(pool)) for _ in range(3)] == losses[2:]
    for name, value in whole.average.shadow.items():
        torch.testing.assert_close(second.average.shadow[name], value, rtol=0, atol=0, msg=name)


def test_two_machines_go_on_from_shards_alike(work_dir: Path) -> None:
    first, pool = _started(work_dir)
    for _ in range(3):
        first.advance(pool)
    first.spent_s = 12.5
    first.export(work_dir / "out")
    runs = [_started(work_dir)[0] for _ in range(2)]
    for run in runs:
        run.resume_from_shards(work_dir / "out")
        assert (run.step, run.spent_s, run.begun_at_step) == (3, 12.5, 3)
    for name, value in first.average.shadow.items():
        expected = value.half().float() if value.is_floating_point() else value
        torch.testing.assert_close(runs[0].both.state_dict()[name], expected, rtol=0, atol=0, msg=name)
    assert float(runs[0].advance(pool)) == float(runs[1].advance(pool))
    with pytest.raises(weight_shards.ShardError, match="another shape"):
        DeviceRun(work_dir, replace(TINY, text_width=128)).resume_from_shards(work_dir / "out")


def test_the_rate_rises_and_falls(work_dir: Path) -> None:
    run = DeviceRun(work_dir, TINY)
    assert run.learning_rate() == pytest.approx(TINY.learning_rate / 2)
    run.step = 10
    assert run.learning_rate() == TINY.learning_rate
    run.spent_s = TINY.total_s * 0.99
    assert run.learning_rate() < TINY.learning_rate * 0.05


def test_workers_tokenise_as_the_pipeline_does(work_dir: Path) -> None:
    run = DeviceRun(work_dir, TINY)
    texts = ["", "a red dog", "Кошка спит", "🎉", "a dog and a cat " * 60]
    ids = composing.FastTokenizer(work_dir / "tokenizer").ids(texts)
    assert (torch.from_numpy(ids).long() == tokenise(run.tokenizer, texts)).all()


BARE = """
import sys
sys.modules["grpc"] = sys.modules["narrative"] = None
from services.trainer.storybook import dataset, on_device
dataset.SHARD_SCENES = 3
raise SystemExit(on_device.main())
"""


def _flags(options: DeviceOptions) -> list[str]:
    flags = ["--sheet-steps", "1"]
    for name in options.__slots__:
        value, flag = getattr(options, name), name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return flags


def test_from_archive_to_pictures_over_two_machines(archive: Path, work_dir: Path) -> None:
    """The first can import neither grpc nor the rest of this project; only shards go on to the second."""
    options = replace(TINY, workers=0, total_s=0.8)
    first = ["--work-dir", work_dir, "--out", work_dir / "out", "--for-s", 60, "--archive", archive, *_flags(options)]
    command = [sys.executable, "-W", "ignore", "-c", BARE, *map(str, first)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (work_dir / device_training.STATE_FILE).unlink()

    spent_s = float(weight_shards.read(work_dir / "out")[1]["spent_s"])
    options = replace(options, total_s=spent_s + 0.8)
    second = ["--work-dir", work_dir, "--out", work_dir / "out2", "--for-s", 60, "--shards", work_dir / "out"]
    assert on_device.main([*map(str, second), *_flags(options)]) == 0
    steps = [int(weight_shards.read(work_dir / out)[1]["step"]) for out in ("out", "out2")]
    assert 0 < steps[0] < steps[1]
    assert len(list(work_dir.glob("out*/sheet-*.png"))) == 2

    device_training.assemble(work_dir / "out2", work_dir)
    pipeline = load_pipeline(work_dir)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a red dog", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert picture.size == (64, 64)


def test_a_chunk_too_short_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not enough"):
        device_training.run_chunk(tmp_path, DeviceOptions(), 100, tmp_path)


def test_an_archive_of_another_edition_is_refused(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "EDITION", "99")
    with pytest.raises(dataset.EditionError, match="edition 99"):
        parts.unpack(archive, tmp_path)


def test_the_default_model_fits_what_may_be_carried() -> None:
    size = DeviceOptions().model_size()
    tokenizer = type(
        "Tokenizer", (), {"__len__": lambda _: 4096, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    )
    with torch.device("meta"):
        count = sum(p.numel() for p in model.build_text_encoder(tokenizer(), size).parameters())
        count += sum(p.numel() for p in device_vae.build((32, 64, 128, 128), 256, size.latent_channels).parameters())
        count += sum(p.numel() for p in model.build_unet(size).parameters())
    assert 25e6 < count < 33e6
    assert count * 2 < 64 * 2**20 - 10**6


class TestWeightShards:
    def test_there_and_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(weight_shards, "SHARD_BYTES", 50)
        tensors = {name: torch.rand(10) for name in "abcde"} | {"n": torch.tensor([3])}
        paths = weight_shards.write(tmp_path, tensors, {"step": "7"})
        assert len(paths) == 3
        again, about = weight_shards.read(tmp_path)
        assert about == {"step": "7", "shards": "3"}
        assert again.keys() == tensors.keys()
        torch.testing.assert_close(again["c"].float(), tensors["c"], rtol=1e-3, atol=1e-3)
        assert again["n"].item() == 3

    def test_incomplete_mixed_or_damaged_shards_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(weight_shards, "SHARD_BYTES", 50)
        tensors = {name: torch.rand(20) for name in "abc"}
        paths = weight_shards.write(tmp_path, tensors, {"step": "7"})
        paths[1].unlink()
        with pytest.raises(weight_shards.ShardError, match="whole of one run"):
            weight_shards.read(tmp_path)
        save_file({"b": torch.rand(3)}, paths[1], metadata={"step": "8", "shard": "1", "shards": "3"})
        with pytest.raises(weight_shards.ShardError, match="whole of one run"):
            weight_shards.read(tmp_path)
        paths[1].write_bytes(b"x" * 100)
        with pytest.raises(weight_shards.ShardError, match="damaged"):
            weight_shards.read(tmp_path)
        with pytest.raises(FileNotFoundError):
            weight_shards.read(tmp_path / "nowhere")

    def test_too_much_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(weight_shards, "SHARD_BYTES", 50)
        with pytest.raises(weight_shards.ShardError, match="smaller model"):
            weight_shards.write(tmp_path, {str(k): torch.rand(20) for k in range(9)}, {})
        with pytest.raises(weight_shards.ShardError, match="larger than a shard"):
            weight_shards.write(tmp_path, {"a": torch.rand(50)}, {})


def test_options_from_plain_values() -> None:
    options = from_values({"unet_channels": [8, 16], "batch": 3, "for_s": 1})
    assert (options.unet_channels, options.batch) == ((8, 16), 3)
