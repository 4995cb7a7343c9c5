"""The judge and the evaluation, tiny: synthetic cut-outs, a network of a few thousand weights, a few steps."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from services.trainer.storybook import concepts, dataset, evaluation, hard_captions, judge, judge_training
from services.trainer.storybook.concepts import Concept
from services.trainer.storybook.hard_captions import alternatives, complete, shows_style, shows_time
from services.trainer.storybook.judge import UNSEEN, Judge, JudgeError, JudgeSize, labels
from services.trainer.storybook.plan import HELD_OUT_SEED, JUDGE_SEEDS, Description, Planner, Subject
from services.trainer.storybook.scenes import Composer

TINY = JudgeSize(width=8, size_px=32)


class FlatCutouts:
    """Every icon is a disc in a colour of its own."""

    def render(self, set_name: str, icon: str) -> Image.Image:
        colour = random.Random(f"{set_name}/{icon}").choices(range(40, 220), k=3)
        image = Image.new("RGBA", (64, 64))
        ImageDraw.Draw(image).ellipse((0, 0, 63, 63), fill=(*colour, 255))
        return image


@pytest.fixture(scope="module")
def known() -> dict[str, Concept]:
    return concepts.load()


@pytest.fixture(scope="module")
def some(known: dict[str, Concept]) -> dict[str, Concept]:
    """Return a few concepts, so that a tiny judge has little to learn."""
    return dict(itertools.islice(((n, c) for n, c in known.items() if c.kind in ("animal", "person")), 12))


def _changes(true: Description, other: Description) -> list[str]:
    changed = [name for name in ("place", "time", "style", "weather") if getattr(true, name) != getattr(other, name)]
    for mine, theirs in zip(true.subjects, other.subjects, strict=True):
        changed += ["subject"] if mine.concept != theirs.concept else []
        changed += ["colour"] if mine.colour != theirs.colour else []
    return changed


def test_every_alternative_differs_in_the_one_thing_it_names(known: dict[str, Concept]) -> None:
    planner = Planner(known)
    aspects = set()
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + 60):
        true = planner.plan(seed)
        wrong = alternatives(true, known, seed)
        assert len({description for _, description in wrong} | {true}) == hard_captions.CANDIDATES
        assert wrong == alternatives(true, known, seed)
        for aspect, description in wrong:
            assert _changes(true, description) == [aspect]
            aspects.add(aspect)
    assert aspects == set(hard_captions.ASPECTS)


def test_the_complete_caption_tells_all_alternatives_apart(known: dict[str, Concept]) -> None:
    planner = Planner(known)
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + 40):
        true = planner.plan(seed)
        said = {complete(description) for _, description in alternatives(true, known, seed)}
        assert complete(true) not in said


def test_what_cannot_be_seen_is_not_asked(known: dict[str, Concept]) -> None:
    car = Description("street", "day", "clear", "flat", (Subject(known["car"], "red"),))
    assert not shows_style(car)
    assert shows_style(replace(car, subjects=(Subject(known["dog"]),)))
    assert shows_style(replace(car, style="oil"))
    assert not shows_time(replace(car, style="pencil"))
    numbers = {name: number for number, name in enumerate(known)}
    row = labels(replace(car, style="pencil", subjects=()), numbers)
    assert row[1:3] == [UNSEEN, UNSEEN]
    assert row[4:] == [UNSEEN] * 8


@pytest.fixture
def trained(some: dict[str, Concept], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Return a judge trained for 240 steps on its own scenes."""
    monkeypatch.setattr(dataset, "SHARD_SCENES", 50)
    monkeypatch.setattr(concepts, "load", lambda: some)
    composer = Composer(FlatCutouts(), some, TINY.size_px)
    for shard in range(10_000_000, 10_000_002):
        path = dataset.shard_path(tmp_path / "judge", TINY.size_px, shard)
        dataset.compose_shard(composer, path, centres=dataset.centres_path(path))
    clock = itertools.count().__next__  # a second a step
    options = judge_training.JudgeOptions(minutes=1, batch=32, size=TINY, learning_rate=4e-3)
    judge_training.train(tmp_path, options, clock)
    first = torch.load(tmp_path / "judge" / "judge.pt", weights_only=True)
    path = judge_training.train(tmp_path, replace(options, minutes=4), clock)
    second = torch.load(tmp_path / "judge" / "judge.pt", weights_only=True)
    assert (first["step"], second["step"]) == (60, 240)
    return Judge.load(path)


def test_a_judge_learns_and_the_evaluation_adds_up(trained: Judge, some: dict[str, Concept]) -> None:
    composer = Composer(FlatCutouts(), some, 64)

    class Honest:
        """Draws what it was told, as the composer does."""

        def __init__(self) -> None:
            self.next = 0

        def draw(self, prompt: str, seed: int) -> Image.Image:
            del prompt, seed
            self.next += 1
            return composer.compose(HELD_OUT_SEED + self.next - 1).image

    class Blank:
        """Draws nothing."""

        def draw(self, prompt: str, seed: int) -> Image.Image:
            del prompt, seed
            return Image.new("RGB", (64, 64), "grey")

    honest = evaluation.evaluate(Honest(), trained, composer, 20)
    blank = evaluation.evaluate(Blank(), trained, composer, 20)
    assert honest["retrieval"] == honest["retrieval_of_composites"]
    assert honest["kid"] == honest["kid_of_composites"]
    lost = honest["retrieval"]["lost_to"]
    assert sum(lost.values()) == round(20 * (1 - honest["retrieval"]["accuracy"]))
    assert blank["kid"] > 5 * abs(honest["kid"])
    # A few steps teach light and little more; chance is a quarter.
    scenes = [composer.compose(seed) for seed in JUDGE_SEEDS[:60]]
    told = [scene for scene in scenes if shows_time(scene.description)]
    maps = trained.features(torch.stack([evaluation.pixels_of(scene.image, TINY.size_px) for scene in told]))
    wanted = torch.tensor([labels(scene.description, trained.numbers) for scene in told])
    likelihood = trained.log_likelihoods(maps, wanted)[:, 1].exp().mean()
    assert float(likelihood.detach()) > 0.35


def test_kid_is_near_zero_for_alike_and_large_for_unlike_sets() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(200, 8)), rng.normal(size=(200, 8))
    assert abs(evaluation.kid(first, second)) < 0.1
    assert evaluation.kid(first, second + 1.0) > 1.0


def test_a_judge_of_other_scenes_is_refused(
    some: dict[str, Concept], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "judge.safetensors"
    Judge(some, TINY).save(path, {})
    assert Judge.load(path).numbers == {name: number for number, name in enumerate(some)}
    with monkeypatch.context() as other:
        other.setattr(dataset, "EDITION", "another")
        with pytest.raises(JudgeError, match="other scenes"):
            Judge.load(path)
    monkeypatch.setattr(concepts, "load", lambda: dict(itertools.islice(some.items(), 11)))
    with pytest.raises(JudgeError, match="other scenes"):
        Judge.load(path)
    with pytest.raises(FileNotFoundError, match="`judge` command"):
        Judge.load(tmp_path / "nothing")


def test_the_judge_that_is_shipped_is_of_these_scenes(known: dict[str, Concept]) -> None:
    shipped = Judge.load(judge.SHIPPED)
    assert shipped.size.size_px == 128
    assert {"dog", "lighthouse", "witch", "red apple"} < set(shipped.numbers) < set(known)


def test_a_pointed_look_is_at_one_place_only(some: dict[str, Concept]) -> None:
    torch.manual_seed(0)
    untrained = Judge(some, TINY)
    dog = Description("meadow", "day", "clear", "flat", (Subject(next(iter(some.values())), "red"),))
    wanted = torch.tensor([labels(dog, untrained.numbers)])
    maps = torch.randn(1, 4 * TINY.width, 2, 2)
    other = maps.clone()
    other[:, :, 0, 0] += 1.0

    def looked(seen: torch.Tensor, x: float, y: float) -> torch.Tensor:
        centres = torch.tensor([x, y]).expand(1, judge.MAX_SUBJECTS, 2)
        return untrained.log_likelihoods(seen, wanted, centres)[:, 4:]

    assert torch.equal(looked(maps, 0.9, 0.2), looked(other, 0.9, 0.2))
    assert not torch.allclose(looked(maps, 0.4, 0.2)[:, :2], looked(other, 0.4, 0.2)[:, :2])
    assert not looked(maps, 0.4, 0.2)[:, 2:].any()
    # Where there is one place only, there is nothing to find.
    single = maps[..., :1, :1]
    torch.testing.assert_close(looked(single, 0.5, 0.5), untrained.log_likelihoods(single, wanted)[:, 4:])


def test_scores_do_not_depend_on_the_other_candidates(some: dict[str, Concept]) -> None:
    torch.manual_seed(0)
    untrained, planner = Judge(some, TINY), Planner(some)
    accounts = [planner.plan(seed) for seed in range(5)]
    pixels = torch.rand(3, 32, 32) * 2 - 1
    together = untrained.scores(pixels, accounts)
    alone = torch.cat([untrained.scores(pixels, [account]) for account in accounts])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert max(len(account.subjects) for account in accounts) <= judge.MAX_SUBJECTS
