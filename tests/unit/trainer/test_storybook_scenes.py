"""The scene composer on synthetic cut-outs: no network, no real drawings."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from services.trainer.storybook import bodies, captions, concepts, dataset, drawings, light, places
from services.trainer.storybook.concepts import Concept, ConceptError
from services.trainer.storybook.cutouts import CutoutError
from services.trainer.storybook.plan import (
    HELD_OUT_SEED,
    JUDGE_SEEDS,
    Description,
    Planner,
    Relation,
    Subject,
    is_held_out,
)
from services.trainer.storybook.scenes import Composer
from services.trainer.storybook.styles import STYLES


class FlatCutouts:
    """Every icon is a disc in a colour of its own."""

    def render(self, set_name: str, icon: str) -> Image.Image:
        colour = random.Random(f"{set_name}/{icon}").choices(range(40, 220), k=3)
        image = Image.new("RGBA", (64, 64))
        ImageDraw.Draw(image).ellipse((0, 0, 63, 63), fill=(*colour, 255))
        return image


@pytest.fixture(scope="module")
def all_concepts() -> dict[str, Concept]:
    return concepts.load()


@pytest.fixture(scope="module")
def composer(all_concepts: dict[str, Concept]) -> Composer:
    return Composer(FlatCutouts(), all_concepts, 64)


def _array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_the_same_seed_gives_the_same_scene(composer: Composer) -> None:
    for seed in range(6):
        first, second = composer.compose(seed), composer.compose(seed)
        assert first.description == second.description
        assert (_array(first.image) == _array(second.image)).all()
    assert composer.compose(1).description != composer.compose(2).description


def test_a_scene_is_a_small_rgb_square(composer: Composer) -> None:
    image = composer.compose(3).image
    assert image.mode == "RGB"
    assert image.size == (64, 64)


def test_the_cover_is_where_things_stand_whatever_the_weather(all_concepts: dict[str, Concept]) -> None:
    composer = Composer(FlatCutouts(), all_concepts, 64)
    empty = Description("meadow", "day", "rain", "watercolour")
    car = replace(empty, subjects=(Subject(all_concepts["car"], "red"),))
    assert not _array(composer.draw(empty, 3).cover).any()
    cover = _array(composer.draw(car, 3).cover)
    assert cover.max() == 255
    assert 0.02 < (cover > 0).mean() < 0.5


def test_centres_are_where_the_subjects_stand(all_concepts: dict[str, Concept]) -> None:
    composer = Composer(FlatCutouts(), all_concepts, 64)
    car, dog = Subject(all_concepts["car"], "red"), Subject(all_concepts["dog"])
    empty = Description("meadow", "day", "clear", "flat")
    for seed in range(8):
        alone = composer.draw(replace(empty, subjects=(car,)), seed)
        ((x, y),) = alone.centres
        ys, xs = np.nonzero(_array(alone.cover) > 128)
        assert abs(x - xs.mean() / 64) < 0.06
        assert abs(y - ys.mean() / 64) < 0.12  # its shadow is part of the cover
        (left, _), (right, _) = composer.draw(
            replace(empty, subjects=(car, dog), relations=(Relation(0, "to the left of", 1),)), seed
        ).centres
        assert left < right
        flock = composer.draw(replace(empty, subjects=(replace(dog, count=3),)), seed)
        assert len(flock.centres) == 1
        assert flock.centres[0][0] < 0.45
    assert composer.draw(empty, 0).centres == ()


@pytest.mark.parametrize("name", ["bird", "helicopter", "rainbow", "rocket", "lighthouse", "castle"])
def test_what_flies_or_is_tall_is_whole(name: str, all_concepts: dict[str, Concept]) -> None:
    composer = Composer(FlatCutouts(), all_concepts, 64)
    place = sorted(all_concepts[name].places)[0]
    scene = Description(place, "day" if "day" in places.PLACES[place].times else "night", "clear", "flat")
    scene = replace(scene, subjects=(Subject(all_concepts[name], None),))
    for seed in range(8):
        cover = _array(composer.draw(scene, seed).cover)
        assert cover.any()
        assert not cover[0].any()


def test_a_folder_keeps_to_the_things_it_was_begun_with(
    all_concepts: dict[str, Concept], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "SHARD_SCENES", 4)
    monkeypatch.setattr(dataset.cutouts, "fetch", lambda _: {})
    monkeypatch.setattr(dataset.cutouts, "CutoutLibrary", lambda _: FlatCutouts())
    dataset.write_shards(tmp_path, 64, 0, 1, things=20)
    assert list(dataset.known(tmp_path)) == list(concepts.commonest(all_concepts, 20))
    assert max(c.weight for c in all_concepts.values() if c.name not in dataset.known(tmp_path)) <= 4.0
    (path,) = dataset.shards(tmp_path, 64)
    assert np.load(dataset.cover_path(path)).shape == (4, 8, 8)
    with pytest.raises(dataset.EditionError, match="another number of things"):
        dataset.write_shards(tmp_path, 64, 0, 2)


def test_captions_name_only_what_is_drawn(all_concepts: dict[str, Concept]) -> None:
    planner = Planner(all_concepts)
    for seed in range(300):
        description = planner.plan(seed)
        drawn: set[str] = set()
        for subject in description.subjects:
            held = [subject.holding] if subject.holding else []
            for thing in (subject, *held):
                for name in thing.concept.names:
                    drawn |= set(name.split()) | set(captions.plural(name).split())
        nouns = {concept.name for concept in all_concepts.values() if " " not in concept.name} - set(drawings.COLOURS)
        # Words of places, times and styles may be nouns of concepts too ("a mountain lake", "stars").
        scenery = " ".join(
            word
            for words in (
                captions.PLACE_WORDS[description.place],
                captions.TIME_WORDS[description.time],
                captions.WEATHER_WORDS[description.weather],
                STYLES[description.style].words,
                (captions.QUALITY_TAIL,),
            )
            for word in words
        ).split()
        scenery += ["dress"] if any(subject.concept.skirt for subject in description.subjects) else []
        said = set(captions.caption(description, random.Random(seed)).replace(",", "").split())
        assert not (said & nouns) - drawn - set(scenery), description


def test_a_colourless_style_names_no_colours(all_concepts: dict[str, Concept]) -> None:
    planner = Planner(all_concepts)
    sketches = [d for d in map(planner.plan, range(900)) if not STYLES[d.style].colourful]
    assert sketches
    for description in sketches:
        assert (description.time, description.weather) == ("day", "clear")
        assert all(subject.colour is None for subject in description.subjects)
        assert all(subject.holding.colour is None for subject in description.subjects if subject.holding)


def test_relations_point_at_subjects(all_concepts: dict[str, Concept]) -> None:
    planner = Planner(all_concepts)
    words = set()
    for seed in range(1500):
        description = planner.plan(seed)
        for relation in description.relations:
            words.add(relation.word)
            assert 0 <= relation.first < len(description.subjects)
            assert relation.second is None or 0 <= relation.second < len(description.subjects)
            assert relation.first != relation.second
    assert {"on", "under", "in front of", "next to", "to the left of", "to the right of", "window"} <= words


def test_the_prompt_services_form_is_among_the_captions(all_concepts: dict[str, Concept]) -> None:
    description = Planner(all_concepts).plan(5)
    wordings = [captions.caption(description, random.Random(n)) for n in range(40)]
    assert any(wording.endswith(captions.QUALITY_TAIL) for wording in wordings)
    assert len(set(wordings)) > 20


@pytest.mark.parametrize(
    ("name", "many"),
    [
        ("dog", "dogs"),
        ("bus", "buses"),
        ("butterfly", "butterflies"),
        ("old man", "old men"),
        ("goose", "geese"),
        ("cup of coffee", "cups of coffee"),
        ("leaf", "leaves"),
    ],
)
def test_plurals(name: str, many: str) -> None:
    assert captions.plural(name) == many


def test_something_on_a_table_is_above_it(all_concepts: dict[str, Concept]) -> None:
    apple, table = Subject(all_concepts["red apple"]), Subject(all_concepts["table"], "brown")
    description = Description("room", "day", "clear", "storybook", (apple, table), (Relation(0, "on", 1),))
    composer = Composer(FlatCutouts(), all_concepts)
    with_apple = _array(composer.draw(description, 1).image)
    without = _array(composer.draw(replace(description, subjects=(table,), relations=()), 1).image)
    assert (with_apple != without).any()


@pytest.mark.parametrize("word", ["to the left of", "to the right of"])
def test_sides_are_as_said(all_concepts: dict[str, Concept], word: str) -> None:
    class Painted(FlatCutouts):
        def render(self, set_name: str, icon: str) -> Image.Image:
            return Image.new("RGBA", (64, 64), (250, 0, 0, 255) if icon == "horse" else (0, 0, 250, 255))

    subjects = (Subject(all_concepts["horse"]), Subject(all_concepts["cow"]))
    description = Description("meadow", "day", "clear", "storybook", subjects, (Relation(0, word, 1),))
    composer = Composer(Painted(), all_concepts)
    for seed in range(8):
        image = _array(composer.draw(description, seed).image)
        red, blue = ((image[..., k] > 180) & (image.sum(axis=-1) < 330) for k in (0, 2))
        horse, cow = (np.nonzero(mask)[1].mean() for mask in (red, blue))
        assert (horse < cow) == (word == "to the left of")


def test_held_out_pairs_are_never_trained_on(all_concepts: dict[str, Concept]) -> None:
    planner = Planner(all_concepts)
    for seed in range(400):
        trained, unseen = planner.plan(seed), planner.plan(HELD_OUT_SEED + seed)
        # A table or sofa may be brought for what lies on it; it is never what is held out.
        chosen = [s for s in trained.subjects if s.concept.kind != "furniture"]
        assert not any(is_held_out(s.concept, trained.place) for s in chosen)
        assert any(is_held_out(s.concept, unseen.place) for s in unseen.subjects)


def test_nothing_is_held_out_from_the_judge(all_concepts: dict[str, Concept]) -> None:
    planner = Planner(all_concepts)
    plans = [planner.plan(seed) for seed in JUDGE_SEEDS[:300]]
    new = [any(is_held_out(s.concept, plan.place) for s in plan.subjects) for plan in plans]
    assert 10 < sum(new) < 60


def test_held_out_wordings_are_no_training_wordings(all_concepts: dict[str, Concept]) -> None:
    description = Planner(all_concepts).plan(5)
    trained = {captions.caption(description, random.Random(n)) for n in range(200)}
    assert trained.isdisjoint(captions.held_out_caption(description, random.Random(n)) for n in range(50))


def test_the_size_changes_the_resolution_only(all_concepts: dict[str, Concept]) -> None:
    small, large = (Composer(FlatCutouts(), all_concepts, size).compose(11) for size in (64, 256))
    assert small.description == large.description
    assert large.image.size == (256, 256)
    difference = _array(small.image) - _array(large.image.resize((64, 64), Image.Resampling.BOX))
    assert abs(difference).mean() < 12


def test_captions_are_not_put_to_scenes_of_another_edition(tmp_path: Path) -> None:
    dataset.check_edition(tmp_path)
    path = dataset.shard_path(tmp_path, 64, 0)
    path.parent.mkdir(parents=True)
    np.save(path, np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(dataset.EditionError, match="edition 1"):
        dataset.check_edition(tmp_path)
    (path.parent / "edition").write_text(dataset.EDITION, encoding="utf-8")
    dataset.check_edition(tmp_path)


def test_night_snow_is_blue_rather_than_grey() -> None:
    ground = _array(places.paint("snow", "night", "clear", random.Random(0)))[230:, :].mean(axis=(0, 1))
    assert ground[2] > ground[0] * 1.4
    assert ground.mean() > 90


def test_a_black_cat_is_black(all_concepts: dict[str, Concept]) -> None:
    class PurpleCat(FlatCutouts):
        def render(self, set_name: str, icon: str) -> Image.Image:
            return Image.new("RGBA", (64, 64), (110, 70, 170, 255))

    cat = Description("snow", "day", "clear", "storybook", (Subject(all_concepts["black cat"]),))
    scene = _array(Composer(PurpleCat(), all_concepts).draw(cat, 0).image)
    assert scene[100:112, 60:68].max() < 90


def test_bodies_are_taller_than_heads_and_sit_lower() -> None:
    head = FlatCutouts().render("noto", "girl")
    standing = bodies.person(head, "red", 0, sitting=False, skirt=True, set_name="noto")
    sitting = bodies.person(head, "red", 0, sitting=True, skirt=True, set_name="noto")
    assert standing.height > sitting.height > head.height
    assert bodies.animal(head).height > head.height
    red = (_array(standing)[..., :3] == [0xD8, 0x33, 0x2F]).all(axis=-1)
    assert red.sum() > 2000


@pytest.mark.parametrize(
    ("place", "time", "weather"),
    [("moonbase", "day", "clear"), ("room", "day", "rain"), ("space", "day", "clear"), ("sea", "noon", "clear")],
)
def test_what_nobody_drew_is_an_error(place: str, time: str, weather: str) -> None:
    with pytest.raises(places.PlaceError):
        places.paint(place, time, weather, random.Random(0))


@pytest.mark.parametrize("place", list(places.PLACES))
def test_every_place_can_be_painted(place: str) -> None:
    for time in places.PLACES[place].times:
        for weather in places.PLACES[place].weathers or ("clear",):
            image = places.paint(place, time, weather, random.Random(1))
            light.fall(image, weather, random.Random(1))
            assert image.size == (light.CANVAS_PX, light.CANVAS_PX)


@pytest.mark.parametrize("name", list(drawings.DRAWINGS))
def test_every_drawing_comes_in_every_colour(name: str) -> None:
    red, blue = drawings.draw(name, "red"), drawings.draw(name, "blue")
    assert red.size == blue.size
    assert (_array(red) != _array(blue)).any()
    with pytest.raises(CutoutError):
        drawings.draw(name, "ultraviolet")


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"name": "dog", "icon": "dog", "kind": "mineral", "size": "small", "places": ["room"], "weight": 1},
        {"name": "dog", "icon": "dog", "kind": "animal", "size": "vast", "places": ["room"], "weight": 1},
        {"name": "dog", "icon": "dog", "kind": "animal", "size": "small", "places": [], "weight": 1},
        {"name": "dog", "icon": "dog", "kind": "animal", "size": "small", "places": ["room"], "weight": 1, "wings": 2},
    ],
)
def test_a_bad_concept_is_refused(entry: dict[str, object]) -> None:
    with pytest.raises(ConceptError):
        concepts.parse([entry])


def test_concepts_are_placed_where_places_are(all_concepts: dict[str, Concept]) -> None:
    assert 500 <= len(all_concepts) <= 700
    for concept in all_concepts.values():
        assert set(concept.places) <= set(places.PLACES)
        assert concept.icon[0] != "@" or concept.icon[1:] in drawings.DRAWINGS
        assert set(concept.colours) <= set(drawings.COLOURS)
