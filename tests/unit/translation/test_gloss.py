"""The grammar of the scene gloss, on words that the table knows: no encoder here."""

from collections.abc import Iterable

import numpy as np
import pytest

from services.translation.gloss.glosser import Glosser
from services.translation.gloss.lexicon import DATA, Lexicon
from services.translation.gloss.linker import VECTORS, Linker, Word, digest
from services.translation.gloss.morphology import in_dictionary, lemmas
from services.translation.gloss.spelling import respell


class NoLinks(Linker):
    def link(self, words: Iterable[Word]) -> dict[Word, str]:
        return {}


@pytest.fixture(scope="module")
def glosser() -> Glosser:
    lexicon = Lexicon()
    return Glosser(lexicon, NoLinks(lexicon.concepts, 0.72, 1))


@pytest.mark.parametrize(
    ("russian", "english"),
    [
        # Number, adjectives, prepositions by case.
        ("Две кошки спят на мягком диване.", "Two cats sleeping on a soft sofa."),
        ("Три поросёнка построили дом.", "Three piglets building a house."),
        ("Ваза стоит под столом.", "A vase standing under a table."),
        ("Поезд едет через мост над широкой рекой.", "A train riding across a bridge above a wide river."),
        ("чашка кофе между книгой и лампой", "A cup of coffee between a book and a lamp"),
        ("Собака лежит слева от окна.", "A dog lying to the left of a window."),
        ("Ветка старого дуба.", "A branch of an old oak tree."),
        # The subject comes first in English.
        ("В синем небе летит самолёт.", "An airplane flying in the blue sky."),
        ("На столе стоят чашка чая и тарелка с яблоками.", "A cup of tea and a plate with apples standing on a table."),
        ("Мальчик держит в руке зонт.", "A boy holding an umbrella in the hand."),
        # Participles, relative clauses, predicates.
        ("горы, покрытые снегом, и озеро", "Mountains covered with snow and a lake"),
        (
            "У окна стоит стол, на котором лежит яблоко.",
            "A table standing near a window with an apple lying on it.",
        ),
        ("Собака, которая лежит под столом, не спит.", "A dog lying under a table not sleeping."),
        ("Небо было голубое.", "The light blue sky."),
        ("У девочки длинные волосы.", "A girl with long hair."),
        # Government of verbs, instruments.
        ("Кот смотрит на рыбу.", "A cat looking at a fish."),
        ("Мальчик рисует дом карандашом.", "A boy drawing a house with a pencil."),
        # Homonyms told by their neighbours.
        ("Дети кормят голубей.", "Children feeding pigeons."),
        ("Мы пошли в лес.", "We walking to a forest."),
        # Fixed phrases.
        ("Женщина держит букет цветов.", "A woman holding a bouquet of flowers."),
        ("Над городом летят воздушные шары.", "Balloons flying above a city."),
        # Conjunctions and ordinals.
        ("Одна кошка спит, а третья смотрит в окно.", "One cat sleeping, and the third one looking out of the window."),
        # One letter wrong.
        ("Большая сабака бежит.", "A big dog running."),
        # Names, Latin, digits, emoji, line breaks.
        ("Маша пьёт чай.", "Masha drinking tea."),
        ("iPhone 15 лежит на столе 🐱", "iPhone 15 lying on a table 🐱"),
        ("Кот спит.\n\nИдёт дождь.", "A cat sleeping.\n\nRain falling."),
    ],
)
def test_gloss(glosser: Glosser, russian: str, english: str) -> None:
    assert glosser.gloss([russian]) == [english]


@pytest.mark.parametrize(
    ("russian", "english"),
    [
        ("Ага, понятно.", "Uh-huh, I see."),
        ("Хорошо, ладно.", "Okay, okay."),
        ("Да.", "Yes."),
        ("Нет.", "No."),
        ("Да нет.", "No."),
        ("Ну да, конечно.", "Yes, of course."),
        ("Спасибо, до свидания.", "Thank you, goodbye."),
        ("Привет! Пожалуйста.", "Hello! Please."),
        ("Ладно, пока.", "Okay, bye."),
        ("Боже мой, класс!", "Great!"),
        ("Угу.", "Uh-huh."),
        ("Господи. Блин.", ". ."),
        # In a sentence what is only said is left out, and the rest means what it means.
        ("Да, кот спит.", "Yes, a cat sleeping."),
        ("Да кот спит.", "A cat sleeping."),
        ("Кот хорошо спит.", "A cat sleeping."),
        ("Кот да собака спят.", "A cat and a dog sleeping."),
        ("Пока кот спит, мышь ест сыр.", "While a cat sleeping, a mouse eating cheese."),
        ("Дети рисуют класс.", "Children drawing a classroom."),
        ("На столе нет яблок.", "On a table no apples."),
        ("Нет дома.", "No house."),
        ("У окна нет красного стула.", "Near a window no red chair."),
        ("Нет, кот спит.", "No, a cat sleeping."),
    ],
)
def test_replies_show_nothing_that_nobody_said(glosser: Glosser, russian: str, english: str) -> None:
    assert glosser.gloss([russian]) == [english]


def test_unknown_words_are_left_out_with_their_preposition(glosser: Glosser) -> None:
    assert glosser.gloss(["Кот спит на глокой куздре."]) == ["A cat sleeping."]


@pytest.mark.parametrize("text", ["", "   ", "...", "?!", "\n", "\x00\x07", "12345", "hello world", "ъ", "и", "не"])
def test_nothing_to_translate_is_no_error(glosser: Glosser, text: str) -> None:
    assert isinstance(glosser.gloss([text])[0], str)


def test_control_characters_stay(glosser: Glosser) -> None:
    assert "\x07" in glosser.gloss(["Кот \x07 спит"])[0]


def test_case_and_yo_do_not_matter(glosser: Glosser) -> None:
    plain, other = glosser.gloss(["зелёная ёлка", "ЗЕЛЕНАЯ ЕЛКА"])
    assert plain == other == "A green fir tree"


def test_spelling_leaves_words_and_names_alone() -> None:
    common = {"собака", "озеро"}.__contains__

    def correct(word: str) -> str:
        return respell(word, in_dictionary, lambda form: any(common(lemma) for lemma, _ in lemmas(form)))

    assert correct("сабака") == "собака"
    assert correct("позеро") == "озеро"
    assert [correct(word) for word in ("собака", "Сабака", "сабка", "abracadabra")] == [
        "собака",
        "Сабака",
        "сабка",
        "abracadabra",
    ]


def test_vectors_belong_to_the_vocabulary() -> None:
    lexicon = Lexicon()
    with np.load(VECTORS) as arrays:
        assert str(arrays["digest"]) == digest(lexicon.concepts)
        assert {part: arrays[part].shape for part in lexicon.concepts} == {
            part: (len(concepts), 512) for part, concepts in lexicon.concepts.items()
        }


def test_tables_are_keyed_by_dictionary_forms() -> None:
    parts = {"n": {"NOUN"}, "a": {"ADJF", "ADJS"}, "v": {"INFN", "ADJF"}}
    wrong = [
        (word, part)
        for word, part in Lexicon().words
        if part in parts and not any(lemma == word and tag in parts[part] for lemma, tag in lemmas(word))
    ]
    assert wrong == []


def test_tables_have_no_word_twice() -> None:
    for path in DATA.glob("*.tsv"):
        rows = [line.split("\t") for line in path.read_text("utf-8").splitlines() if line and line[0] != "#"]
        width = 2 if path.stem in ("russian", "prepositions", "government") else 1
        keys = [tuple(row[:width]) for row in rows]
        assert sorted(keys) == sorted(set(keys)), path.name
