"""Word and character error rates.

Source: the Levenshtein alignment of jiwer; errors in all texts over words (characters) in all references.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

from narrative.errors import InvalidInput
from services.trainer.speech.normalise import plain


@dataclass(frozen=True)
class ErrorRates:
    """Shares of the reference that are wrong: 0 is perfect, and what was made up can take them above 1."""

    wer: float
    cer: float


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorRates:
    """Compares texts by their words alone: without case, punctuation, ё, and digits where Russian spells them out.

    Raises:
        InvalidInput: different numbers of texts, or a reference without words.
    """
    if len(references) != len(hypotheses):
        raise InvalidInput(
            f"{len(references)} references and {len(hypotheses)} hypotheses; one of each is needed a clip"
        )
    spoken, heard = [plain(text) for text in references], [plain(text) for text in hypotheses]
    empty = [index for index, text in enumerate(spoken, 1) if not text]
    if empty or not spoken:
        raise InvalidInput(f"reference {empty[0]} has no words" if empty else "there are no texts to compare")
    return ErrorRates(float(jiwer.wer(spoken, heard)), float(jiwer.cer(spoken, heard)))
