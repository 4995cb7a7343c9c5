"""Mending lines: rules that cannot lose a word, and the check that an LLM has lost or added none."""

import difflib
import re
import unicodedata
from collections.abc import Sequence

from services.prompt.vocabulary import words_of

# Two words at least this alike are one word and its typing error.
_ALIKE = 0.6

_SPACE_BEFORE = re.compile(r"\s+([,.;:!?…])")
_REPEATED = re.compile(r"([,;:])(?:\s*[,;:])+")
# Only after a letter and before one: 3,5 and 12:30 and "..." stay as they are.
_NO_SPACE_AFTER = re.compile(r"(?<=[^\W\d_])([,;:!?])(?=[^\W\d_])")
_ENDED = re.compile(r"[.!?…][\"'»”)\]]*$")


def tidy_line(text: str) -> str:
    """Spaces, punctuation, the first capital and the full stop, by rule; every word stays as it is.

    Control characters become spaces, so that nothing said can pass for markup further on.
    """
    line = "".join(
        " " if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else char
        for char in unicodedata.normalize("NFC", text)
    )
    line = re.sub(r"\s+", " ", line).strip()
    line = _SPACE_BEFORE.sub(r"\1", line)
    line = _REPEATED.sub(r"\1", line)
    line = _NO_SPACE_AFTER.sub(r"\1 ", line).strip(" ,;:")
    if not words_of(line):
        return ""
    line = line[0].upper() + line[1:]
    return line if _ENDED.search(line) else f"{line}."


def strayed_words(original: str, mended: str) -> int:
    """Word-level edit distance in which a mended typing error costs nothing.

    Words added, lost or replaced by unlike ones count one each; words only split or joined count nothing.
    """
    before = [word.casefold() for word in words_of(original)]
    after = [word.casefold() for word in words_of(mended)]
    if "".join(before) == "".join(after):
        return 0
    row = list(range(len(after) + 1))
    for i, word in enumerate(before, 1):
        above = row
        row = [i]
        for j, other in enumerate(after, 1):
            replace = above[j - 1] + (0 if _alike(word, other) else 1)
            row.append(min(replace, above[j] + 1, row[j - 1] + 1))
    return row[-1]


def keeps_every_word(original: str, mended: str) -> bool:
    """Whether nothing was added and nothing lost."""
    return strayed_words(original, mended) == 0


def join_lines(lines: Sequence[str]) -> str:
    """The text of a speaker; every line ends a sentence, as ``tidy_line`` leaves it."""
    return " ".join(line for line in lines if line)


def _alike(one: str, other: str) -> bool:
    if one == other:
        return True
    if one.isdigit() or other.isdigit():
        return False
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio() >= _ALIKE
