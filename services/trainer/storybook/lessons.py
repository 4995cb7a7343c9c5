"""Data of the experiments in docs/experiments.md: a character, a style, edits, videos, and what to measure them by.

    python -m services.trainer.storybook lessons DATA

Nothing of it was among Storybook's own training pictures: the character is put together here, the style is a filter
made here, and edits and videos need pairs of pictures, which no single scene is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from services.trainer.storybook import concepts, cutouts, dataset, grounds
from services.trainer.storybook.captions import PLACE_WORDS, sentence
from services.trainer.storybook.concepts import Concept
from services.trainer.storybook.cutouts import CutoutSource
from services.trainer.storybook.light import Colour, sky
from services.trainer.storybook.places import PLACES
from services.trainer.storybook.plan import Description, Subject
from services.trainer.storybook.scenes import Composer, Item
from services.trainer.storybook.styles import Style

CHARACTER = Concept("pim", (), "pim", "animal", 0.56, tuple(PLACES), 1.0)
"""A purple dog with a top hat."""

CLASS = "dog"
"""What the character is one of, which the shipped Storybook draws."""

TAUGHT_PLACES = ("meadow", "forest", "beach", "snow", "room")
ASKED_PLACES = ("street", "park", "lake", "farm", "mountains", "harbour", "castle", "garden")
"""Where the character is asked for; it is taught in other places."""

EDITS = ("make it night", "add snow")
VIDEO_FRAMES = 20
_FIRST_SEED = 700_000_000
"""Scenes from here on are neither Storybook's own (from 0), nor its judge's, nor held out."""

_SNOW = np.array((236, 240, 250))


class _Painter(grounds.Painter):
    """Paints the ground white where snow falls, which Storybook's own scenes do not."""

    def lit(self, colour: Colour) -> Colour:
        r, g, b = super().lit(colour)
        if self.weather != "snow":
            return r, g, b
        white = super().lit(tuple(int(channel) for channel in _SNOW))  # type: ignore[arg-type]
        mixed = (int(0.35 * own + 0.65 * snow) for own, snow in zip((r, g, b), white, strict=True))
        return next(mixed), next(mixed), next(mixed)


class _Parts:
    """The cut-outs, and the character beside them."""

    def __init__(self, source: CutoutSource) -> None:
        self._source = source

    def render(self, set_name: str, icon: str) -> Image.Image:
        """Return the cut-out as RGBA, cropped to what is drawn."""
        if icon != CHARACTER.icon:
            return self._source.render(set_name, icon)
        dog, hat = (self._source.render(set_name, name) for name in (CLASS, "top-hat"))
        purple = ImageOps.colorize(ImageOps.autocontrast(dog.convert("L")), (60, 0, 90), (230, 120, 255))
        purple.putalpha(dog.getchannel("A"))
        width = round(dog.width * 0.6)
        hat = hat.resize((width, round(hat.height * width / hat.width)))
        above = hat.height - round(hat.height * 0.25)
        whole = Image.new("RGBA", (dog.width, dog.height + above))
        whole.alpha_composite(purple, (0, above))
        whole.alpha_composite(hat, ((dog.width - width) // 2, 0))
        return whole


class LessonComposer(Composer):
    """Composes scenes of which only one thing changes: the time of day, the weather, or where the subjects stand.

    Attributes:
        shift: how far to the right of where the seed puts them things stand, as a fraction of the picture.
    """

    def __init__(self, source: CutoutSource, known: dict[str, Concept], size_px: int = 128) -> None:
        super().__init__(_Parts(source), known, size_px)
        self.shift = 0.0

    def _ground(self, description: Description, rng: random.Random, side_px: int) -> Image.Image:
        place = PLACES[description.place]
        image = sky(description.time, description.weather, side_px)
        # Sun, clouds and stars take as many random numbers as there are of them; the ground must not depend on that.
        painter = _Painter(image, random.Random(rng.random()), description.time, description.weather)  # noqa: S311
        if not place.indoors:
            grounds.heavens(painter)
        painter.rng = rng
        place.paint(painter)
        return image

    def _layout(self, description: Description, style: Style, rng: random.Random) -> list[Item]:
        return [replace(item, x=item.x + self.shift) for item in super()._layout(description, style, rng)]


def open_composer(work_dir: Path, size_px: int) -> LessonComposer:
    """Fetch the cut-outs that are missing and return a composer of the things that the work dir is of."""
    return LessonComposer(cutouts.CutoutLibrary(cutouts.fetch(work_dir)), dataset.known(work_dir), size_px)


def write(composer: LessonComposer, folder: Path, *, pairs: int = 600, videos: int = 300, held_out: int = 32) -> None:
    """Write everything: for each experiment what is learned, and what nobody learns to measure it by.

    Args:
        pairs: pairs of pictures to learn edits from, half of them of each edit.
        videos: videos to learn to move things from.
        held_out: scenes of each kind that are held out.
    """
    write_character(composer, folder, held_out)
    write_style(composer, folder, 20, held_out)
    seeds = iter(range(_FIRST_SEED + 1_000_000, _FIRST_SEED + 2_000_000))
    for split, number in (("train", pairs), ("held-out", 2 * held_out)):
        write_edits(composer, folder / "edits" / split, number, seeds)
    for split, number in (("train", videos), ("held-out", held_out)):
        write_videos(composer, folder / "videos" / split, number, seeds)


def write_character(composer: LessonComposer, folder: Path, held_out: int) -> None:
    """Write five captioned pictures to learn from, others where they are not from, and prompts.

    Pictures of the class, and of the character at the same spots, tell which of the two the word of the class draws.
    """
    key, name = CHARACTER.name, f"{CHARACTER.name} {CLASS}"
    character, rows = Subject(CHARACTER), []
    for number, place in enumerate(TAUGHT_PLACES):
        _save(portrait(composer, character, place, number), folder / key / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": f"{name} {PLACE_WORDS[place][0]}"})
    _write_rows(folder / key / "metadata.jsonl", rows)
    usual = Subject(concepts.load()[CLASS])
    for number in range(held_out):
        file, asked = f"{number:02d}.png", ASKED_PLACES[number % len(ASKED_PLACES)]
        _save(portrait(composer, character, asked, 100 + number), folder / f"{key}-real" / file)
        anywhere = (TAUGHT_PLACES + ASKED_PLACES)[number % (len(TAUGHT_PLACES) + len(ASKED_PLACES))]
        _save(portrait(composer, character, anywhere, 200 + number), folder / f"{key}-anywhere" / file)
        _save(portrait(composer, usual, anywhere, 200 + number), folder / f"{CLASS}-anywhere" / file)
    prompts = [f"{name} {PLACE_WORDS[place][0]}" for place in ASKED_PLACES]
    (folder / f"{key}-prompts.txt").write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")


def write_style(composer: LessonComposer, folder: Path, taught: int, held_out: int) -> None:
    """Write a palette of cyanotypes with captions that end in the word, others that are held out, and their prompts."""
    captions: dict[str, list[str]] = {"cyanotype": [], "cyanotype-real": []}
    scenes = _daylit(composer, iter(range(_FIRST_SEED, _FIRST_SEED + 1_000_000)), subjects=1)
    for number, (description, seed) in zip(range(taught + held_out), scenes, strict=False):
        split = "cyanotype" if number < taught else "cyanotype-real"
        name = f"{len(captions[split]):02d}.png"
        _save(cyanotype(composer.draw(description, seed).image), folder / split / name)
        captions[split].append(sentence(description, random.Random(number)))  # noqa: S311
    rows = [
        {"file_name": f"{index:02d}.png", "text": f"{caption}, cyanotype"}
        for index, caption in enumerate(captions["cyanotype"])
    ]
    _write_rows(folder / "cyanotype" / "metadata.jsonl", rows)
    prompts = captions["cyanotype-real"]
    (folder / "scene-prompts.txt").write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")
    (folder / "cyanotype-prompts.txt").write_text(
        "".join(f"{prompt}, cyanotype\n" for prompt in prompts), encoding="utf-8"
    )


def cyanotype(image: Image.Image) -> Image.Image:
    """Print a picture in Prussian blue."""
    return ImageOps.colorize(ImageOps.autocontrast(image.convert("L")), (9, 38, 92), (236, 244, 250))


def write_edits(composer: LessonComposer, folder: Path, number: int, seeds: Iterator[int]) -> None:
    """Write pairs with ``metadata.jsonl``, the edits by turns."""
    rows = []
    for index, (description, seed) in zip(range(number), _daylit(composer, seeds), strict=False):
        instruction = EDITS[index % len(EDITS)]
        night = instruction == "make it night"
        changed = replace(description, time="night") if night else replace(description, weather="snow")
        names = [f"{index:04d}-{part}.png" for part in ("before", "after")]
        _save(composer.draw(description, seed).image, folder / names[0])
        _save(composer.draw(changed, seed).image, folder / names[1])
        rows.append({"input_image": names[0], "edit_prompt": instruction, "edited_image": names[1]})
    _write_rows(folder / "metadata.jsonl", rows)


def write_videos(composer: LessonComposer, folder: Path, number: int, seeds: Iterator[int]) -> None:
    """Write videos of one thing that moves, whose last frame shows it further on the same way.

    ``other.jpg`` shows it as far away on the opposite side, where it came from: which of the two is right, no single
    frame says.
    """
    rows = []
    for index, (description, seed) in zip(range(number), _daylit(composer, seeds, subjects=1), strict=False):
        video = folder / f"{index:04d}"
        direction = 1 if index % 2 else -1
        now = 0.04 * (random.Random(seed).random() - 0.5)  # noqa: S311
        shifts = [now - direction * 0.011 * (VIDEO_FRAMES - 1 - frame) for frame in range(VIDEO_FRAMES)]
        names = [f"{frame:02d}.jpg" for frame in range(VIDEO_FRAMES + 1)]
        for name, shift in zip(
            [*names, "other.jpg"], [*shifts, now + direction * 0.21, now - direction * 0.21], strict=True
        ):
            composer.shift = shift
            _save(composer.draw(description, seed).image, video / name)
        composer.shift = 0.0
        rows.append({"video_path": video.name, "instruction": "move the object"})
    (folder / "metadata.json").write_text(f"{json.dumps(rows, indent=1)}\n", encoding="utf-8")


def portrait(composer: LessonComposer, subject: Subject, place: str, seed: int) -> Image.Image:
    """Draw a thing that stands alone in a place, by day where there is one."""
    description = Description(place, PLACES[place].times[0], "clear", "storybook", (subject,))
    return composer.draw(description, _FIRST_SEED + seed).image


def _daylit(
    composer: LessonComposer, seeds: Iterator[int], subjects: int | None = None
) -> Iterator[tuple[Description, int]]:
    """Yield scenes under a clear or cloudy sky that is not dark, where snow may lie."""
    for seed in seeds:
        plan = composer.planner.plan(seed)
        place = PLACES[plan.place]
        if place.indoors or plan.place in ("sea", "desert", "harbour", "snow") or len(place.times) == 1:
            continue
        if plan.style != "storybook" or plan.time == "night" or plan.weather not in ("clear", "cloudy"):
            continue
        if subjects is not None and (len(plan.subjects) != subjects or plan.subjects[0].count > 1):
            continue
        yield plan, seed


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95)


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
