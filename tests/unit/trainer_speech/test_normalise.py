"""Transcripts: what is taught, and what is compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.speech.normalise import clean, plain
from services.trainer.speech.numerals import LIMIT, cardinal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Сказал: «Ёж»\u00a0—  и ушёл.", 'Сказал: "Ёж" - и ушёл.'),
        ("за́мок [шум] стоит <unk> *кашляет*", "замок стоит"),
        ("и\u0306од", "йод"),
        ("soft\u00adhyphen\ttab\n", "softhyphen tab"),
        ("", ""),
    ],
)
def test_what_is_taught_keeps_case_and_punctuation(text, expected):
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ёж, кто-то и «Пушкин»!", "еж кто-то и пушкин"),
        ("В 1941 году было 25 ёлок", "в одна тысяча девятьсот сорок один году было двадцать пять елок"),
        ("12 000 рублей", "двенадцать тысяч рублей"),
        ("It's 5 o'clock.", "it's 5 o'clock"),
        ("--- ...", ""),
    ],
)
def test_what_is_compared_is_only_words(text, expected):
    assert plain(text) == expected


@given(st.text())
def test_both_forms_are_stable(text):
    assert clean(clean(text)) == clean(text)
    assert plain(plain(text)) == plain(text)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "ноль"),
        (11, "одиннадцать"),
        (40, "сорок"),
        (101, "сто один"),
        (1_000, "одна тысяча"),
        (2_002, "две тысячи два"),
        (11_011, "одиннадцать тысяч одиннадцать"),
        (21_000_000, "двадцать один миллион"),
        (3_005_000_090, "три миллиарда пять миллионов девяносто"),
    ],
)
def test_cardinals(number, expected):
    assert cardinal(number) == expected


def test_no_two_numbers_are_called_the_same():
    assert len({cardinal(number) for number in range(20_000)}) == 20_000


@pytest.mark.parametrize("number", [-1, LIMIT])
def test_a_number_without_a_name_is_refused(number):
    with pytest.raises(ValueError, match="outside"):
        cardinal(number)
