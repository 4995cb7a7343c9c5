import pytest

from services.prompt.engine import Scene
from services.prompt.templates import templates
from services.prompt.visual_prompt import build_prompt, clean_details, tidy_phrase

ENGLISH = templates("en").vocabulary


def test_prompt_is_scene_details_style_and_the_quality_tail() -> None:
    scene = Scene("a girl on the grass", "watercolor", ("big dog", "blue sky"))
    assert build_prompt(scene, "en") == (
        "a girl on the grass, big dog, blue sky, watercolor, detailed illustration, realistic light, high quality"
    )


def test_russian_prompt_ends_with_the_russian_tail() -> None:
    scene = Scene("девочка на траве", "акварель", ("большая собака",))
    assert build_prompt(scene, "ru") == (
        "девочка на траве, большая собака, акварель, детализированная иллюстрация, реалистичный свет, высокое качество"
    )


def test_empty_parts_leave_no_double_commas() -> None:
    assert build_prompt(Scene("a girl.", " ", ()), "en").startswith("a girl, detailed")


@pytest.mark.parametrize(
    ("offered", "kept"),
    [
        (
            ["red hat", "blue sky", "old boat", "calm sea", "white bird"],
            ("red hat", "blue sky", "old boat", "calm sea"),
        ),
        (["  Red   hat. ", "red hat", "RED HAT"], ("Red hat",)),
        (["a very old boat with a red sail"], ("a very old boat",)),
        (["", " ", "…", "\x00"], ()),
        (["green grass", "big dog"], ("big dog",)),
        (["dog", "big dog"], ("dog", "big dog")),
        (["big dog", "dog"], ("big dog",)),
    ],
)
def test_details_are_cleaned(offered: list[str], kept: tuple[str, ...]) -> None:
    assert clean_details(offered, "a girl on the green grass", ENGLISH) == kept


def test_a_detail_is_compared_by_whole_words() -> None:
    assert clean_details(["cat"], "a caterpillar on a leaf", ENGLISH) == ("cat",)


def test_tidy_phrase_keeps_one_printable_line() -> None:
    assert tidy_phrase(" «A girl\n\ton\x07 grass!» ") == "A girl on grass"
