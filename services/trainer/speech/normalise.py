"""Two forms of a transcript: the one a model is taught to write, and the one in which answers are compared."""

import re
import unicodedata

from services.trainer.speech.numerals import LIMIT, cardinal

_STRESS = "\N{COMBINING ACUTE ACCENT}"
_QUOTES = str.maketrans({**dict.fromkeys("«»„“”‟", '"'), **dict.fromkeys("‘’‚‛`´", "'")})
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—―−", "-"))
_ANNOTATION = re.compile(r"\[[^\]]*\]|<[^>]*>|\*[^*]*\*")
_NUMBER = re.compile(r"\d+(?:[ \N{NO-BREAK SPACE}]\d{3})*")
_CYRILLIC = re.compile(r"[а-яё]", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


def clean(text: str) -> str:
    """A transcript as Whisper would write it: cased and punctuated, one kind of quote, dash and space.

    Notes of the transcriber ("[шум]", "<unk>", "*смеётся*") and stress marks go; nothing else does.
    """
    text = unicodedata.normalize("NFC", text).replace(_STRESS, "").translate(_QUOTES).translate(_DASHES)
    text = _ANNOTATION.sub(" ", text)
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Zs") else c for c in text)
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())


def plain(text: str) -> str:
    """Only the words, for comparison: lower case, without punctuation, ё as е.

    In a text with Cyrillic letters whole numbers are spelled out, since one transcriber writes "5" and the next "пять".
    """
    text = clean(text).lower().replace("ё", "е")
    if _CYRILLIC.search(text):
        text = _NUMBER.sub(_spelled, text)
    return " ".join(_WORD.findall(text))


def _spelled(found: re.Match[str]) -> str:
    number = int(re.sub(r"\D", "", found.group()))
    return f" {cardinal(number)} " if number < LIMIT else found.group()
