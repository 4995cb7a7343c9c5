import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.prompt.normalize import keeps_every_word, strayed_words, tidy_line
from services.prompt.vocabulary import words_of


@pytest.mark.parametrize(
    ("raw", "tidy"),
    [
        ("  hello   there ", "Hello there."),
        ("hello ,there", "Hello, there."),
        ("what is it ?", "What is it?"),
        ("so,, well", "So, well."),
        ("at 12:30 we paid 3,5 euros", "At 12:30 we paid 3,5 euros."),
        ("he said “no”", "He said “no”."),
        ("привет ,как дела?", "Привет, как дела?"),
        ("wait...", "Wait..."),
        ("one\x00two\u200bthree\nfour", "One two three four."),
        ("", ""),
        (" ... ", ""),
    ],
)
def test_rules_mend_spaces_punctuation_and_capitals(raw: str, tidy: str) -> None:
    assert tidy_line(raw) == tidy


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_rules_are_settled_after_one_pass(raw: str) -> None:
    once = tidy_line(raw)
    assert tidy_line(once) == once


@given(st.lists(st.sampled_from(["cat", "sat", "дом", "3", ",", "!", "it's"]), max_size=12))
def test_rules_lose_no_word(parts: list[str]) -> None:
    raw = " ".join(parts)
    assert [word.lower() for word in words_of(tidy_line(raw))] == [word.lower() for word in words_of(raw)]


@pytest.mark.parametrize(
    ("original", "mended", "strayed"),
    [
        ("what time dose the trian leave", "What time does the train leave?", 0),
        ("во сколько отходит поест", "Во сколько отходит поезд?", 0),
        ("в месте мы пошли", "Вместе мы пошли.", 0),
        ("the cat sleeps", "The big cat sleeps.", 1),
        ("the big cat sleeps", "The cat sleeps.", 1),
        ("the cat sleeps", "The dog sleeps.", 1),
        ("it cost 30 euros", "It cost 13 euros.", 1),
        ("one two", "", 2),
    ],
)
def test_words_added_lost_or_replaced_are_counted(original: str, mended: str, strayed: int) -> None:
    assert strayed_words(original, mended) == strayed
    assert keeps_every_word(original, mended) is (strayed == 0)
