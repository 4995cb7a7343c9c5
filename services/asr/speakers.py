"""Who said which word, and how speakers are named."""

from collections.abc import Iterator, Sequence

from services.asr.engine import Turn, Word


def speaker_of(start_s: float, end_s: float, turns: Sequence[Turn]) -> str:
    """The speaker whose turns overlap a word for the longest time; of the nearest turn where none does.

    Args:
        turns: in time order, without overlap; not empty.
    """
    overlap: dict[str, float] = {}
    for turn in turns:
        shared_s = min(end_s, turn.end_s) - max(start_s, turn.start_s)
        if shared_s > 0:
            overlap[turn.speaker] = overlap.get(turn.speaker, 0.0) + shared_s
    if overlap:
        return max(overlap, key=lambda speaker: overlap[speaker])
    middle_s = (start_s + end_s) / 2
    return min(turns, key=lambda turn: max(turn.start_s - middle_s, middle_s - turn.end_s)).speaker


def cut_at_speaker_changes(words: Sequence[Word], turns: Sequence[Turn]) -> Iterator[tuple[str, list[Word]]]:
    """Runs of consecutive words by one speaker."""
    run: list[Word] = []
    current = ""
    for word in words:
        speaker = speaker_of(word.start_s, word.end_s, turns)
        if run and speaker != current:
            yield current, run
            run = []
        current = speaker
        run.append(word)
    if run:
        yield current, run


class SpeakerNames:
    """Names speakers "SPEAKER_00", "SPEAKER_01", ... as they first appear."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def __getitem__(self, label: str) -> str:
        return self._names.setdefault(label, f"SPEAKER_{len(self._names):02}")

    def in_order(self) -> tuple[str, ...]:
        return tuple(self._names.values())
