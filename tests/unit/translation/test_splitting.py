import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.translation.splitting import join_pieces, split_text


def words(text: str) -> int:
    return len(text.split())


def test_sentences_are_pieces() -> None:
    assert split_text("Раз два. Три!\n\nЧетыре", words, 10) == ["Раз два.", " ", "Три!", "\n\n", "Четыре"]


def test_sentence_over_the_limit_is_cut_between_words() -> None:
    pieces = split_text("а б в г д", words, 2)
    assert [piece for piece in pieces if piece.strip()] == ["а б", "в г", "д"]


def test_word_over_the_limit_is_cut() -> None:
    assert split_text("а" * 10, len, 4) == ["аааа", "аааа", "аа"]


@given(st.text(alphabet="аб .!?\n\t", max_size=80), st.integers(1, 6))
def test_nothing_is_lost_and_no_piece_is_too_long(text: str, limit: int) -> None:
    pieces = split_text(text, len, limit)
    assert "".join(pieces) == text
    assert all(len(piece.strip()) <= limit for piece in pieces)


@pytest.mark.parametrize("text", ["Раз. Два.\nТри", "", "  ", " Раз. "])
def test_join_keeps_white_space(text: str) -> None:
    pieces = split_text(text, words, 5)
    translated = (piece.upper() for piece in pieces if piece.strip())
    assert join_pieces(pieces, translated) == text.upper()
