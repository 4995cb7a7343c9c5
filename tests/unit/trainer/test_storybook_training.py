"""The training loops on a tiny random configuration: only their wiring is under test, not the pictures."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from services.trainer import checkpoint
from services.trainer.storybook import beginning, cutouts, dataset, export, latents, model, train_vae, widening
from services.trainer.storybook import train_text_to_image as text_to_image
from services.trainer.storybook.diffusers_parts import StableDiffusionPipeline
from services.trainer.storybook.train_text_to_image import Trainer, TrainOptions, tokenise

SIZE = model.ModelSize(
    text_width=64, text_layers=1, unet_channels=(16, 32), head_width=16, latent_px=8, latent_channels=4
)
WORDS = ["a red dog", "a blue cat", "a green house in the snow", "the sea at night"]


class Book:
    """Four captions, whatever the wording."""

    def caption(self, seed: int, wording: int) -> str:
        del wording
        return WORDS[seed % len(WORDS)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return model.train_tokenizer(WORDS, tmp_path_factory.mktemp("tokenizer"))


def _trainer(tokenizer: CLIPTokenizer, steps: int = 40, *, bf16: bool = False) -> Trainer:
    torch.manual_seed(0)
    pictures = torch.randn(4, 4, 1, 1).expand(4, 4, 8, 8).contiguous()
    options = TrainOptions(steps=steps, batch=4, learning_rate=2e-3, warmup_steps=5, decay_steps=10, bf16=bf16)
    return Trainer(tokenizer, SIZE, pictures, np.arange(4), Book(), options)


def test_loss_falls(tokenizer: CLIPTokenizer) -> None:
    trainer = _trainer(tokenizer)
    losses = [trainer.advance() for _ in range(40)]
    assert np.mean(losses[-8:]) < 0.75 * np.mean(losses[:4])


def test_half_precision_learns_as_much_and_keeps_whole_weights(tokenizer: CLIPTokenizer) -> None:
    whole, half = _trainer(tokenizer), _trainer(tokenizer, bf16=True)
    losses = [(whole.advance(), half.advance()) for _ in range(10)]
    assert all(there == pytest.approx(here, rel=0.03) for here, there in losses)
    assert losses[-1][0] != losses[-1][1]
    assert {parameter.dtype for parameter in half.both.parameters()} == {torch.float32}


def test_resumed_run_is_the_same_run(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    whole = _trainer(tokenizer)
    for _ in range(6):
        whole.advance()
    first = _trainer(tokenizer)
    for _ in range(3):
        first.advance()
    first.save(tmp_path / "run.pt")
    second = _trainer(tokenizer)
    second.resume(tmp_path / "run.pt")
    for _ in range(3):
        second.advance()
    assert second.step == whole.step == 6
    for name, value in whole.both.state_dict().items():
        torch.testing.assert_close(second.both.state_dict()[name], value, rtol=0, atol=0, msg=name)
    for name, value in whole.ema.shadow.items():
        torch.testing.assert_close(second.ema.shadow[name], value, rtol=0, atol=0, msg=name)


def test_things_count_more_and_pictures_alike(tokenizer: CLIPTokenizer) -> None:
    cover = torch.zeros(4, 8, 8, dtype=torch.uint8)
    cover[0, :2], cover[1, 0, 0] = 255, 255
    options = TrainOptions(batch=16, subject_weight=4.0)
    trainer = Trainer(tokenizer, SIZE, torch.zeros(4, 4, 8, 8), np.arange(4), Book(), options, cover)
    weights = trainer.batch()[-1]
    assert weights.shape == (16, 1, 8, 8)
    torch.testing.assert_close(weights.mean(dim=(1, 2, 3)), torch.ones(16))
    ratios = {round(float(one.max() / one.min()), 3) for one in weights}
    assert ratios == {1.0, 5.0}


def test_any_text_tokenises(tokenizer: CLIPTokenizer) -> None:
    texts = ["", "a red dog", "Кошка спит", "🎉🐱", "zyx " * 500]
    ids = tokenise(tokenizer, texts)
    assert ids.shape == (5, model.MAX_TOKENS)
    assert int(ids.max()) < len(tokenizer)
    # Only the end mark may stand for itself: an unknown token would be that mark in the middle of a text.
    for row, text in zip(ids[1:4].tolist(), texts[1:4], strict=True):
        words = row[1 : row.index(tokenizer.eos_token_id)]
        assert words, text
    assert tokenizer.decode(ids[1], skip_special_tokens=True) == "a red dog"


def _smooth_pictures() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.nn.functional.interpolate(torch.rand(16, 3, 9, 9), size=32, mode="bilinear") * 2 - 1


def test_latents_are_independent_and_depend_on_the_patch_alone() -> None:
    pixels = _smooth_pictures()
    space = latents.fit(pixels, 6)
    encoded = space.encode(pixels)
    assert encoded.shape == (16, 6, 4, 4)
    covariance = encoded.transpose(0, 1).flatten(1).cov()
    torch.testing.assert_close(covariance[:4, :4], torch.eye(4), rtol=0.02, atol=0.02)
    torch.testing.assert_close(covariance, covariance.diag().diag(), rtol=0.02, atol=0.02)
    assert 1 > covariance[4, 4] > covariance[5, 5] > 0.1, "weaker features are weaker in latents"
    torch.testing.assert_close(space.encode(pixels[:, :, 8:24, 8:24]), encoded[:, :, 1:3, 1:3], rtol=1e-3, atol=1e-3)


# diffusers 0.42 makes an array of a tensor the old way.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_autoencoder_learns_resumes_and_exports_a_pipeline(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 255, (32, 4, 4, 3), dtype=np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    path = dataset.shard_path(tmp_path, 64, 0)
    path.parent.mkdir(parents=True)
    np.save(path, blocks)
    (tmp_path / "model_size.json").write_text(json.dumps(asdict(SIZE)))
    options = train_vae.VaeOptions(size_px=64, crop_px=32, channels=(8, 8, 16, 16), batch=4, steps=2)
    train_vae.train(tmp_path, options)
    assert checkpoint.load(tmp_path / "vae.pt")["step"] == 2
    train_vae.train(tmp_path, replace(options, steps=4))
    assert checkpoint.load(tmp_path / "vae.pt")["step"] == 4

    tokenizer.save_pretrained(tmp_path / "tokenizer")
    trainer = _trainer(tokenizer)
    trainer.advance()
    trainer.save(tmp_path / "text_to_image.pt")
    pipeline = export.load_pipeline(tmp_path, SIZE)
    pipeline.set_progress_bar_config(disable=True)
    pictures = [
        pipeline("a red dog", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
        for _ in range(2)
    ]
    assert pictures[0].size == (64, 64)
    assert (np.asarray(pictures[0]) == np.asarray(pictures[1])).all()

    export.export(tmp_path, tmp_path / "exported")
    for config in (tmp_path / "exported").rglob("*.json"):
        assert str(tmp_path) not in config.read_text(encoding="utf-8"), config
    _goes_on_from(tmp_path / "exported", path, tmp_path / "second", trainer)
    _goes_on_with_more_latents(tmp_path / "exported", tmp_path / "third")


def _goes_on_from(exported: Path, shard: Path, second: Path, first: Trainer) -> None:
    beginning.begin(second, exported)
    copied = dataset.shard_path(second, 64, 0)
    copied.parent.mkdir()
    np.save(copied, np.load(shard))
    (copied.parent / "edition").write_text(dataset.EDITION)
    path = text_to_image.train(second, 64, TrainOptions(steps=0))
    begun = checkpoint.load(path)
    for name, value in first.ema.shadow.items():
        torch.testing.assert_close(begun["both"][name], value, rtol=2e-3, atol=1e-4, msg=name)
    vae = beginning.read_vae(second)
    assert vae is not None
    pixels = torch.from_numpy(np.load(shard)[:4].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0)
    with torch.no_grad():
        told = vae.encode(pixels).latent_dist.mean
    found = train_vae.latent_space(second, 64).encode(pixels)
    assert (found - told).square().mean() < 0.3 * told.square().mean()
    with pytest.raises(FileExistsError, match="another --work-dir"):
        beginning.begin(second, exported)


@torch.no_grad()
def _goes_on_with_more_latents(exported: Path, third: Path) -> None:
    with pytest.raises(widening.WidthError, match="have 4 channels"):
        beginning.begin(third, exported, latent_channels=3)
    assert not third.exists()
    beginning.begin(third, exported, latent_channels=7)
    size = model.read_size(third, 8)
    assert size == replace(SIZE, latent_channels=7)
    before = StableDiffusionPipeline.from_pretrained(exported, safety_checker=None)
    unet, vae = model.build_unet(size), beginning.read_vae(third)
    assert vae is not None
    begun = checkpoint.load(beginning.start_path(third))
    unet.load_state_dict({name.removeprefix("unet."): value for name, value in begun.items() if "unet." in name})
    seen, states, pixels = torch.randn(2, 7, 8, 8), torch.randn(2, 5, 64), torch.rand(2, 3, 64, 64) * 2 - 1
    predicted = unet(seen, 500, states).sample
    torch.testing.assert_close(predicted[:, :4], before.unet(seen[:, :4], 500, states).sample)
    assert not predicted[:, 4:].any()
    torch.testing.assert_close(vae.decode(seen).sample, before.vae.decode(seen[:, :4]).sample)
    told, told_before = vae.encode(pixels).latent_dist, before.vae.encode(pixels).latent_dist
    torch.testing.assert_close(told.mean[:, :4], told_before.mean)
    torch.testing.assert_close(told.logvar[:, :4], told_before.logvar)
    encoded = latents.of_encoder(vae, _smooth_pictures()).encode(_smooth_pictures())
    new = encoded[:, 4:].transpose(0, 1).flatten(1).cov()
    torch.testing.assert_close(new, new.diag().diag(), rtol=0.02, atol=0.02)
    assert 1.02 > new[0, 0] > new[1, 1] > new[2, 2] > 0.1


@torch.no_grad()
def test_a_wider_first_level_predicts_nearly_the_same() -> None:
    torch.manual_seed(1)
    size = replace(SIZE, unet_channels=(16, 48, 32), unet_layers=2)
    unet = model.build_unet(size)
    for name, weight in unet.named_parameters():  # those that begin as nothing would hide mistakes
        if not weight.any():
            weight.normal_(std=0.05 if "time_emb" in name or weight.dim() > 1 else 0.3)
    wide = widening.double_first_level(unet, size)
    assert tuple(wide.config.block_out_channels) == (32, 48, 32)
    seen, states = torch.randn(8, 4, 8, 8), torch.randn(8, 5, 64)
    for timestep in (20, 500, 900):
        before, after = unet(seen, timestep, states).sample, wide(seen, timestep, states).sample
        assert (after - before).square().mean() < 0.02 * before.square().mean()
    twins = wide.down_blocks[0].resnets[0].conv2.weight
    assert not torch.equal(twins[:, 0], twins[:, 4]), "what came twice can part ways"


def test_latents_that_were_cut_off_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dataset.shard_path(tmp_path, 64, 0)
    path.parent.mkdir(parents=True)
    np.save(path, np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8))
    (tmp_path / "model_size.json").write_text(json.dumps(asdict(SIZE)))
    text_to_image.latent_space(tmp_path, 64)

    def cut_off(file: IO[bytes], array: np.ndarray) -> None:
        file.write(array.tobytes()[:10])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", cut_off)
        with pytest.raises(KeyboardInterrupt):
            text_to_image.encode_shards(tmp_path, 64)
    latents_of_all, seeds = text_to_image.encode_shards(tmp_path, 64)
    assert latents_of_all.shape == (4, 4, 8, 8)
    assert len(seeds) == dataset.SHARD_SCENES


def test_export_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="vae/config"):
        export.load_pipeline(tmp_path)


def test_training_without_scenes_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="cutouts"):
        train_vae.train(tmp_path, train_vae.VaeOptions(steps=1))


def test_a_changed_package_is_refused(tmp_path: Path) -> None:
    tarball = tmp_path / "set.tgz"
    tarball.write_bytes(b"drawings")
    good = "sha512-" + base64.b64encode(hashlib.sha512(b"drawings").digest()).decode()
    cutouts.verify(tarball, good)
    tarball.write_bytes(b"other drawings")
    with pytest.raises(cutouts.CutoutError, match="digest"):
        cutouts.verify(tarball, good)
