import pytest

from services.translation.gloss import english
from services.translation.gloss.lexicon import Lexicon
from services.translation.gloss.nouns import transliterate


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon()


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        ("cat", "cats"),
        ("box", "boxes"),
        ("berry", "berries"),
        ("boy", "boys"),
        ("pine tree", "pine trees"),
        ("child", "children"),
        ("wolf", "wolves"),
        ("snow", "snow"),
        ("sheep", "sheep"),
    ],
)
def test_plural(lexicon: Lexicon, noun: str, plural: str) -> None:
    assert lexicon.plural(noun) == plural


@pytest.mark.parametrize(
    ("verb", "ing"),
    [
        ("sit", "sitting"),
        ("lie", "lying"),
        ("ride", "riding"),
        ("swim", "swimming"),
        ("play", "playing"),
        ("look at", "looking at"),
        ("eat", "eating"),
        ("see", "seeing"),
        ("snow", "snowing"),
        ("wander", "wandering"),
    ],
)
def test_ing(lexicon: Lexicon, verb: str, ing: str) -> None:
    assert lexicon.ing(verb) == ing


@pytest.mark.parametrize(
    ("verb", "participle"), [("cover", "covered"), ("open", "opened"), ("build", "built"), ("wrap", "wrapped")]
)
def test_participle(lexicon: Lexicon, verb: str, participle: str) -> None:
    assert lexicon.participle(verb) == participle


@pytest.mark.parametrize(
    ("noun", "phrase", "expected"),
    [
        ("apple", "red apple", "a red apple"),
        ("apple", "apple", "an apple"),
        ("sky", "blue sky", "the blue sky"),
        ("snow", "white snow", "white snow"),
        ("unicorn", "unicorn", "a unicorn"),
    ],
)
def test_article(lexicon: Lexicon, noun: str, phrase: str, expected: str) -> None:
    assert lexicon.article(noun, phrase) == expected


def test_names_are_transliterated() -> None:
    assert [transliterate(name) for name in ("Маша", "Юрий", "Щукин")] == ["masha", "yuriy", "shchukin"]


def test_irregular_forms_are_those_of_known_concepts(lexicon: Lexicon) -> None:
    for part, concepts in lexicon.concepts.items():
        assert len(concepts) == len(set(concepts)), part
        assert all(concept == concept.strip() and concept.isascii() for concept in concepts), part
    assert english.plural("bus") == "buses"
