"""The data of the experiments, on synthetic cut-outs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.trainer.storybook import concepts
from services.trainer.storybook.lessons import VIDEO_FRAMES, LessonComposer, write
from tests.unit.trainer.test_storybook_scenes import FlatCutouts


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(float)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lessons")
    write(LessonComposer(FlatCutouts(), concepts.load(), 64), folder, pairs=4, videos=2, held_out=2)
    return folder


def test_a_character_is_taught_elsewhere_than_it_is_asked_for(data: Path) -> None:
    rows = [json.loads(line) for line in (data / "pim" / "metadata.jsonl").read_text().splitlines()]
    prompts = (data / "pim-prompts.txt").read_text().splitlines()
    assert len(rows) == 5
    assert all((data / "pim" / row["file_name"]).is_file() for row in rows)
    assert not {row["text"] for row in rows} & set(prompts)
    assert len(list((data / "pim-real").glob("*.png"))) == 2


def test_a_character_and_its_class_stand_at_the_same_spot(data: Path) -> None:
    for name in ("00.png", "01.png"):
        character, usual = (pixels(data / folder / name) for folder in ("pim-anywhere", "dog-anywhere"))
        differs = np.abs(character - usual).max(axis=2) > 40
        assert 0.02 < differs.mean() < 0.4
        assert not differs[:, :8].any()
        red, green, blue = character[differs].mean(axis=0)
        assert green < min(red, blue)


def test_captions_of_the_palette_end_in_the_word(data: Path) -> None:
    rows = [json.loads(line) for line in (data / "cyanotype" / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert all((data / "cyanotype" / row["file_name"]).is_file() for row in rows)
    assert all(row["text"].endswith(", cyanotype") for row in rows)
    assert len((data / "cyanotype-prompts.txt").read_text().splitlines()) == 2


def test_an_edit_changes_the_light_and_nothing_else(data: Path) -> None:
    rows = [json.loads(line) for line in (data / "edits" / "train" / "metadata.jsonl").read_text().splitlines()]
    assert [row["edit_prompt"] for row in rows] == ["make it night", "add snow"] * 2
    pairs = [[pixels(data / "edits" / "train" / row[key]) for key in ("input_image", "edited_image")] for row in rows]
    for row, (before, after), (another, _) in zip(rows, pairs, [*pairs[1:], pairs[0]], strict=True):
        assert (before.mean() > after.mean() + 20) == (row["edit_prompt"] == "make it night")
        # What has an edge has it at the same place in both.
        edges = [np.abs(np.diff(picture.mean(axis=2), axis=1))[40:].ravel() for picture in (after, before, another)]
        with_before, with_another = np.corrcoef(edges)[0, 1:]
        assert with_before > max(0.25, with_another + 0.2)


def test_a_thing_moves_on_the_way_it_came(data: Path) -> None:
    for video in sorted((data / "videos" / "train").glob("[0-9]*")):
        frames = [pixels(video / f"{number:02d}.jpg") for number in range(VIDEO_FRAMES + 1)]
        far = [np.abs(frames[-1] - frame).mean() for frame in frames]
        assert far[0] > 5
        assert far[0] > far[VIDEO_FRAMES - 1] > far[VIDEO_FRAMES] == 0
        assert np.abs(pixels(video / "other.jpg") - frames[0]).mean() < 0.2 * far[0]
