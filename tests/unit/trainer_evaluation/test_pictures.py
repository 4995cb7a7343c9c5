"""Scores of pictures with tiny random judges of the real classes: wiring and arithmetic, not taste."""

import json

import PIL.Image
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from narrative.errors import ImageUndecodable, InvalidInput, InvalidParameter, WeightsError, WeightsMissing
from services.trainer.evaluation.judges import open_judge
from services.trainer.evaluation.pictures import (
    Judges,
    bootstrap_interval,
    frechet_distance,
    inception_score,
    kernel_distance,
    mean_cosines,
    score_pictures,
)
from services.trainer.evaluation.report import Report

SIZE = {"height": 16, "width": 16}


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    torch.manual_seed(0)
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    letters = sorted(ByteLevel.alphabet())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: number for number, token in enumerate(vocabulary)}, merges=[])
    tokenizer.model_max_length = 16
    clip = CLIPConfig(
        text_config={
            **layers, "vocab_size": len(vocabulary), "max_position_embeddings": 16, "eos_token_id": len(vocabulary) - 1
        },
        vision_config={**layers, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )  # fmt: skip
    CLIPModel(clip).save_pretrained(folder / "clip")
    CLIPProcessor(CLIPImageProcessor(size=SIZE, crop_size=SIZE), tokenizer).save_pretrained(folder / "clip")
    ViTModel(ViTConfig(**layers, image_size=16, patch_size=8)).save_pretrained(folder / "dino")
    ViTImageProcessor(size=SIZE).save_pretrained(folder / "dino")
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=5)
    ResNetForImageClassification(resnet).save_pretrained(folder / "resnet")
    ViTImageProcessor(size=SIZE).save_pretrained(folder / "resnet")
    return Judges(*(str(folder / name) for name in ("clip", "dino", "dino", "resnet")))


def draw(folder, colours):
    folder.mkdir(exist_ok=True)
    for number, colour in enumerate(colours):
        PIL.Image.effect_noise((24, 20), 10 + number).convert("RGB").save(folder / f"{number}.png")
        with PIL.Image.open(folder / f"{number}.png") as noise:
            PIL.Image.blend(noise, PIL.Image.new("RGB", noise.size, colour), 0.7).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def folders(tmp_path):
    return draw(tmp_path / "drawn", ["red", "blue", "green", "pink"]), draw(
        tmp_path / "real", ["red", "navy", "white", "gray"]
    )


def score(generated, real, judges, *metrics, prompts=None, seed=0):
    return score_pictures(generated, real, prompts, metrics or None, judges, seed=seed, report=lambda _: None)


def test_every_score_is_measured_and_named(folders, judges, tmp_path):
    generated, real = folders
    (tmp_path / "prompts.txt").write_text("a red one\na blue one\na green one\na pink one\n")
    asked = ("similarity", "fid", "kid", "clip_i", "clip_t", "dino", "is")
    report = score(generated, real, judges, *asked, prompts=tmp_path / "prompts.txt")
    assert tuple(report.scores) == asked
    assert all(-1 <= report.scores[name] <= 1 for name in ("similarity", "clip_i", "clip_t", "dino"))
    assert report.scores["similarity"] == pytest.approx(report.scores["dino"])
    assert report.scores["is"] >= 1
    assert (report.about["generated"], report.about["real"]) == (4, 4)
    assert json.loads(report.as_json())["about"]["judges"]["dino"] == judges.dino


def test_clip_and_dino_are_the_papers_means_of_cosines(folders, judges, tmp_path):
    """Against what the models' own classes give: every picture with every real one, and each with its own prompt."""
    generated, real = folders
    texts = ["a red one", "a blue one", "a green one", "a pink one"]
    (tmp_path / "prompts.txt").write_text("\n".join(texts))
    scores = score(generated, real, judges, "clip_i", "clip_t", "dino", prompts=tmp_path / "prompts.txt").scores

    def opened(folder):
        return [PIL.Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]

    def mean_of_all(ours, theirs):
        pairs = [torch.cosine_similarity(one, other, dim=0) for one in ours for other in theirs]
        return float(torch.stack(pairs).mean())

    clip, processor = CLIPModel.from_pretrained(judges.clip), CLIPProcessor.from_pretrained(judges.clip)
    vit, resized = ViTModel.from_pretrained(judges.dino), ViTImageProcessor.from_pretrained(judges.dino)
    with torch.inference_mode():
        both = clip(**processor(text=texts, images=opened(generated), return_tensors="pt", padding=True))
        there = clip(**processor(text=texts, images=opened(real), return_tensors="pt", padding=True))
        own = (both.logits_per_image / clip.logit_scale.exp()).diagonal()
        tokens = [
            vit(**resized(images=opened(folder), return_tensors="pt")).last_hidden_state[:, 0] for folder in folders
        ]
    assert scores["clip_t"] == pytest.approx(float(own.mean()), abs=1e-5)
    assert scores["clip_i"] == pytest.approx(mean_of_all(both.image_embeds, there.image_embeds), abs=1e-5)
    assert scores["dino"] == pytest.approx(mean_of_all(*tokens), abs=1e-5)


def test_the_same_seed_gives_the_same_figures(folders, judges):
    assert score(*folders, judges).scores == score(*folders, judges).scores


def test_a_prompt_may_lie_beside_its_picture(folders, judges, tmp_path):
    generated, real = folders
    texts = ("one", "two", "three", "four")
    for number, text in enumerate(texts):
        (generated / f"{number}.txt").write_text(text)
    (tmp_path / "prompts.txt").write_text("\n".join(texts))
    beside = score(generated, real, judges, "clip_t").scores
    assert beside == score(generated, real, judges, "clip_t", prompts=tmp_path / "prompts.txt").scores


def test_features_that_are_alike_are_near_and_others_far():
    torch.manual_seed(0)
    features = torch.randn(64, 8)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-3)
    assert frechet_distance(features + 3, features) == pytest.approx(8 * 9, rel=1e-3)
    assert kernel_distance(features, features)[0] < 0.2
    assert kernel_distance(features + 3, features)[0] > 5
    assert mean_cosines(features[:1], features[:1]).tolist() == pytest.approx([1])
    assert mean_cosines(features[:1], torch.cat([features[:1], -features[:1]])).tolist() == pytest.approx([0])


def test_a_gain_over_a_baseline_has_an_interval(folders, judges, tmp_path):
    generated, real = folders
    before = draw(tmp_path / "before", ["lime", "gold", "teal", "cyan"])

    def measured(baseline):
        return score_pictures(
            generated, real, None, ["similarity", "l1"], judges, seed=0, report=lambda _: None, baseline=baseline
        )

    report = measured(before)
    assert list(report.scores) == ["similarity", "similarity_gain", "l1"]
    without = score(before, real, judges, "similarity").scores["similarity"]
    assert report.scores["similarity_gain"] == pytest.approx(report.scores["similarity"] - without, abs=1e-6)
    low, high = report.about["similarity_gain_interval"]
    assert low < report.scores["similarity_gain"] < high
    assert measured(generated).about["similarity_gain_interval"] == (0, 0)
    (before / "3.png").rename(before / "4.png")
    with pytest.raises(InvalidInput, match="pictures of other names"):
        measured(before)


def test_an_interval_narrows_with_the_number_of_pictures():
    torch.manual_seed(0)
    for number, half in ((25, 0.4), (2500, 0.04)):
        low, high = bootstrap_interval(torch.randn(number))
        assert 0.7 * half < (high - low) / 2 < 1.3 * half


def test_the_inception_score_is_the_number_of_classes_at_best():
    sure = torch.eye(5).repeat(20, 1) * 100
    assert 4 < inception_score(sure)[0] <= 5.001
    assert inception_score(torch.zeros(40, 5))[0] == pytest.approx(1)


def test_bad_folders_and_files_are_named(folders, judges, tmp_path):
    generated, real = folders
    with pytest.raises(InvalidInput, match="nowhere: no such folder"):
        score(tmp_path / "nowhere", real, judges)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="empty holds no pictures"):
        score(generated, tmp_path / "empty", judges)
    (tmp_path / "prompts.txt").write_text("only one")
    with pytest.raises(InvalidInput, match="1 prompts for 4 pictures"):
        score(generated, real, judges, "clip_t", prompts=tmp_path / "prompts.txt")
    with pytest.raises(InvalidInput, match=r"prompts cannot be read.*0\.txt"):
        score(generated, real, judges, "clip_t")
    (generated / "9.png").write_bytes(b"no picture")
    with pytest.raises(ImageUndecodable, match=r"9\.png cannot be opened"):
        score(generated, real, judges)


def test_what_is_asked_for_must_exist(folders, judges):
    generated, real = folders
    with pytest.raises(InvalidParameter, match="'ssim' is no metric; there are similarity"):
        score(generated, real, judges, "ssim")
    with pytest.raises(InvalidParameter, match="fid compares with real pictures"):
        score(generated, None, judges, "fid")
    with pytest.raises(InvalidInput, match="two pictures at least"):
        score(draw(generated.parent / "single", ["red"]), real, judges, "fid")


def test_a_judge_that_is_not_at_hand_is_named(folders, judges, tmp_path, monkeypatch):
    monkeypatch.setenv("NARRATIVE_MODELS_DIR", str(tmp_path / "models"))
    absent = Judges("clip-vit-large-patch14", judges.dino, judges.features, judges.classifier)
    with pytest.raises(WeightsMissing, match="narrate models pull clip-vit-large-patch14"):
        score(*folders, absent, "clip_i")
    swapped = Judges(judges.clip, judges.dino, judges.features, judges.clip)
    with pytest.raises(WeightsError, match=r"cannot judge pictures this way: the weights lack classifier\.bias"):
        score(*folders, swapped, "is")


def test_pictures_are_compared_two_by_two(tmp_path, judges):
    for folder, colours in (("ours", ("black", "white")), ("theirs", ("black", "red"))):
        (tmp_path / folder).mkdir()
        for number, colour in enumerate(colours):
            PIL.Image.new("RGB", (8, 8), colour).save(tmp_path / folder / f"{number}.png")

    def l1() -> float:
        report = score_pictures(
            tmp_path / "ours", tmp_path / "theirs", None, ["l1"], judges, seed=0, report=lambda _: None
        )
        return report.scores["l1"]

    assert l1() == pytest.approx(1 / 3)
    PIL.Image.new("RGB", (4, 8)).save(tmp_path / "ours" / "1.png")
    with pytest.raises(InvalidInput, match="one size"):
        l1()
    (tmp_path / "ours" / "1.png").unlink()
    with pytest.raises(InvalidInput, match="two by two"):
        l1()


def test_features_of_a_diffusion_model_are_of_one_length():
    judge = open_judge("storybook")
    found = judge.pictures([PIL.Image.new("RGB", (64, 64), colour) for colour in ("red", "white")])
    assert found.square().mean(dim=1) == pytest.approx([1.0, 1.0], abs=1e-4)


def test_the_table_says_which_way_is_better():
    columns = Report({"similarity": 0.9, "l1": 0.1, "kid": 0.1}).table().columns
    assert list(columns[2].cells) == ["higher", "lower", "lower"]
