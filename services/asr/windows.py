"""Which stretches go to the speech model, and which of them together."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from services.asr.engine import Turn

# Silence inside a window costs time, and long silence makes Whisper invent words.
_MAX_GAP_S = 2.0
# Word times are good to about a tenth of a second; so much is heard around a turn where nobody else speaks.
_MARGIN_S = 0.1
# Most that a batch may grow by padding its shorter windows.
_MAX_PADDING = 1.25


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


def batch_windows(
    windows: Sequence[Window], context_s: Callable[[float], float], most: int
) -> Iterator[Sequence[Window]]:
    """Consecutive windows that are worth transcribing together: all of a batch are padded to its longest.

    Args:
        context_s: audio in seconds that the encoder is given for a window of so many seconds.
        most: windows in a batch.
    """
    batch: list[Window] = []
    for window in windows:
        contexts = [context_s(each.end_s - each.start_s) for each in (*batch, window)]
        if batch and (len(batch) == most or max(contexts) * len(contexts) > _MAX_PADDING * sum(contexts)):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
