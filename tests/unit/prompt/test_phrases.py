import pytest

from services.prompt.phrases import MAX_PHRASE_WORDS, MAX_PHRASES, details, phrases, scenes
from services.prompt.templates import templates
from services.prompt.vocabulary import same_stem

ENGLISH = templates("en").vocabulary
RUSSIAN = templates("ru").vocabulary


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        (
            "A little girl is sitting on the green grass next to a large brown dog.",
            ["a little girl sitting on the green grass next to a large brown dog"],
        ),
        (
            "To the right of the window there is a wooden table with a red apple on it.",
            ["to the right of the window a wooden table with a red apple"],
        ),
        ("Small girl sitting green grass big dog.", ["small girl sitting green grass big dog"]),
        ("Well, thank you. Three horses ran across the field!", ["three horses ran across the field"]),
        ("Well, you know what I think about that.", []),
        ("Yes, I agree with you completely.", []),
        ("Have you seen Anna in Paris?", ["Anna in Paris"]),
    ],
)
def test_phrases_are_the_visible_part_of_sentences(line: str, seen: list[str]) -> None:
    assert phrases([line], ENGLISH) == seen


@pytest.mark.parametrize("reply", ["Mm-hmm.", "Uh-huh, uh, um.", "Hm, alright.", "Okay, I see.", "MM-HMM!", "Bye-bye!"])
def test_short_replies_show_nothing(reply: str) -> None:
    assert phrases([reply], ENGLISH) == []


@pytest.mark.parametrize("reply", ["Ага, понятно.", "Хорошо, ладно.", "Спасибо, до свидания.", "Угу, мгм.", "Окей."])
def test_short_russian_replies_show_nothing(reply: str) -> None:
    assert phrases([reply], RUSSIAN) == []


def test_russian_phrases() -> None:
    line = "На фотографии маленькая девочка сидит на зелёной траве рядом с большой собакой."
    assert phrases([line], RUSSIAN) == ["маленькая девочка сидит на зелёной траве рядом с большой собакой"]
    assert phrases(["Да, я с вами согласен."], RUSSIAN) == []


def test_long_and_many_sentences_are_bounded() -> None:
    endless = " ".join(["oak", "pine"] * 60)
    assert all(len(phrase.split()) <= MAX_PHRASE_WORDS for phrase in phrases([endless], ENGLISH))
    lines = [f"A {colour} {animal}." for colour in ("red", "blue", "green") for animal in ("cat", "dog", "fox", "owl")]
    richest = "A white horse, a wooden cart and an old farmer."
    found = phrases([*lines, richest], ENGLISH)
    assert len(found) == MAX_PHRASES
    assert found[-1] == "a white horse a wooden cart and an old farmer"


def test_two_short_phrases_may_stand_together_and_long_ones_not() -> None:
    options = dict(scenes(["a red boat", "a white gull", "x " * 14]))
    assert options["a red boat, a white gull"] == ["x " * 14]
    assert not [scene for scene in options if scene.startswith("a red boat, x")]
    assert options["a red boat"] == ["a white gull", "x " * 14]


def test_details_are_runs_of_visible_words() -> None:
    assert details(["two cats on the soft sofa"], ENGLISH) == ["cats", "soft sofa"]
    gloss = details(["man blue jacket crossing street holding umbrella"], ENGLISH)
    assert "blue jacket" in gloss
    assert all(len(detail.split()) <= 5 for detail in gloss)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("girl", "girls", True),
        ("девочка", "девочку", True),
        ("sit", "sitting", True),
        ("cat", "dog", False),
        ("a", "an", False),
    ],
)
def test_same_stem(one: str, other: str, same: bool) -> None:
    assert same_stem(one, other) is same


@pytest.mark.parametrize("language", ["en", "ru"])
def test_no_word_is_both_glue_and_talk(language: str) -> None:
    vocabulary = templates(language).vocabulary
    assert not vocabulary.glue & vocabulary.talk
    assert vocabulary.leading <= vocabulary.glue | vocabulary.talk
    assert vocabulary.edge <= vocabulary.glue
