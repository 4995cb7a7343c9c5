"""Who said which word, which stretches go to the speech model together, and how speakers are named."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.asr.engine import Turn, Word

# Silence inside a window costs time, and long silence makes Whisper invent words.
_MAX_GAP_S = 2.0
# Word times are good to about a tenth of a second; so much is heard around a turn where nobody else speaks.
_MARGIN_S = 0.1


@dataclass(frozen=True)
class Window:
    """A stretch of the recording that the speech model hears at once, and the turns in it."""

    start_s: float
    end_s: float
    turns: tuple[Turn, ...]


def plan_windows(turns: Sequence[Turn], duration_s: float, *, one_speaker: bool, max_s: float) -> list[Window]:
    """Packs consecutive turns into windows.

    Args:
        turns: in time order, without overlap.
        duration_s: length of the recording.
        one_speaker: start a new window with every change of speaker. A window has one language, so this is needed
            where the language is not given: speakers may speak different ones.
        max_s: longest window; a longer turn has one to itself.
    """
    groups: list[list[Turn]] = []
    for turn in turns:
        if groups and _fits(groups[-1], turn, one_speaker, max_s - 2 * _MARGIN_S):
            groups[-1].append(turn)
        else:
            groups.append([turn])
    windows = []
    for index, group in enumerate(groups):
        before = groups[index - 1][-1].end_s if index else 0.0
        after = groups[index + 1][0].start_s if index + 1 < len(groups) else duration_s
        start_s = max(group[0].start_s - _MARGIN_S, (group[0].start_s + before) / 2, 0.0)
        end_s = min(group[-1].end_s + _MARGIN_S, (group[-1].end_s + after) / 2, duration_s)
        windows.append(Window(start_s, end_s, tuple(group)))
    return windows


def _fits(group: list[Turn], turn: Turn, one_speaker: bool, max_s: float) -> bool:
    if one_speaker and turn.speaker != group[-1].speaker:
        return False
    return turn.end_s - group[0].start_s <= max_s and turn.start_s - group[-1].end_s <= _MAX_GAP_S


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
