"""Cuts long texts into pieces a sentence model can take, and puts the translations back together."""

import re
from collections.abc import Callable, Iterator, Sequence

_LINES = re.compile(r"(\s*[\r\n]+\s*)")
_SENTENCES = re.compile(r"(?<=[.!?…。！？])(\s+)")
_WORDS = re.compile(r"(\s+)")


def split_text(text: str, length: Callable[[str], int], limit: int) -> list[str]:
    """Cuts a text at line breaks and sentence ends, and a sentence that is still too long between words.

    Args:
        text: any text.
        length: how many tokens a piece has.
        limit: most tokens of a piece; a single longer word is cut into characters.

    Returns:
        Pieces and the white space between them, so that ``"".join`` gives the text back.
    """
    pieces: list[str] = []
    for line in _LINES.split(text):
        for sentence in _SENTENCES.split(line):
            if not sentence:
                continue
            pieces += [sentence] if length(sentence) <= limit else _cut(sentence, length, limit)
    return pieces


def join_pieces(pieces: Sequence[str], translated: Iterator[str]) -> str:
    """Replaces every piece that is not white space by the next translation."""
    return "".join(next(translated) if piece.strip() else piece for piece in pieces)


def _cut(sentence: str, length: Callable[[str], int], limit: int) -> list[str]:
    pieces, current = [], ""
    for word in _WORDS.split(sentence):
        if current.strip() and length(current + word) > limit:
            body = current.rstrip()
            pieces += [body, current[len(body) :]]
            current = ""
        if word.strip() and length(word) > limit:
            pieces += [current, *(word[i : i + limit] for i in range(0, len(word), limit))]
            current = ""
        else:
            current += word
    return [piece for piece in [*pieces, current] if piece]
