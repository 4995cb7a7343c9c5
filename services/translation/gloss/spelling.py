"""Small slips of speech recognition: a word that no dictionary has, one letter away from one that the table has."""

from collections.abc import Callable, Iterator

_LETTERS = "абвгдежзийклмнопрстуфхцчшщъыьэюя"
_MIN_LETTERS, _MAX_LETTERS = 6, 20


def respell(word: str, in_dictionary: Callable[[str], bool], is_common: Callable[[str], bool]) -> str:
    """The word, or the one common word that differs from it by one letter added, lost, changed or swapped.

    Args:
        word: a Russian word.
        in_dictionary: whether a form exists in Russian; such words are left alone.
        is_common: whether a form belongs to a word of the table.
    """
    lower = word.lower()
    # A capital letter may begin a name, which no dictionary need have.
    if (
        not _MIN_LETTERS <= len(word) <= _MAX_LETTERS
        or word != lower
        or in_dictionary(lower)
        or not set(lower) <= {*_LETTERS, "ё"}
    ):
        return word
    candidates = {candidate for candidate in _neighbours(lower) if in_dictionary(candidate) and is_common(candidate)}
    return candidates.pop() if len(candidates) == 1 else word


def _neighbours(word: str) -> Iterator[str]:
    for at in range(len(word) + 1):
        head, tail = word[:at], word[at:]
        for letter in _LETTERS:
            yield head + letter + tail
            if tail:
                yield head + letter + tail[1:]
        if tail:
            yield head + tail[1:]
        if len(tail) > 1:
            yield head + tail[1] + tail[0] + tail[2:]
