"""From what the speech model heard in each window to the segments of a recording."""

from collections.abc import Iterator, Sequence

from services.asr.engine import Segment, Word
from services.asr.speakers import SpeakerNames, cut_at_speaker_changes
from services.asr.whisper_text import Transcript, Utterance
from services.asr.windows import Window


class Assembly:
    """Numbers segments, names speakers, keeps count of languages; windows come in time order.

    Args:
        words: give each segment its words.
        merge: one segment a window, for translations, which belong to a window as a whole.
    """

    def __init__(self, *, words: bool, merge: bool) -> None:
        self._words = words
        self._merge = merge
        self._names = SpeakerNames()
        self._spoken_s: dict[str, dict[str, float]] = {}  # By label and language.
        self.count = 0

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names in order of first appearance."""
        return self._names.in_order()

    @property
    def main_language(self) -> str:
        """The language spoken longest; empty before the first segment."""
        total_s: dict[str, float] = {}
        for spoken in self._spoken_s.values():
            for language, duration_s in spoken.items():
                total_s[language] = total_s.get(language, 0.0) + duration_s
        return _longest(total_s)

    def likely_language(self, window: Window) -> str:
        """What the first speaker of a window has spoken longest so far; empty where nothing yet."""
        return _longest(self._spoken_s.get(window.turns[0].speaker, {}))

    def segments(self, window: Window, transcript: Transcript) -> Iterator[Segment]:
        """The utterances of a window, cut at speaker changes, with times counted from the start of the recording."""
        utterances: Sequence[Utterance] = transcript.utterances
        if self._merge and utterances:
            utterances = [_joined(utterances)]
        for utterance in utterances:
            words = [_shifted(word, window) for word in utterance.words]
            for label, run in cut_at_speaker_changes(words, window.turns):
                start_s, end_s = run[0].start_s, run[-1].end_s
                spoken = self._spoken_s.setdefault(label, {})
                spoken[transcript.language] = spoken.get(transcript.language, 0.0) + end_s - start_s
                yield Segment(
                    self.count,
                    self._names[label],
                    start_s,
                    end_s,
                    "".join(word.text for word in run).strip(),
                    transcript.language,
                    utterance.confidence,
                    tuple(Word(w.text.strip(), w.start_s, w.end_s, w.probability) for w in run) if self._words else (),
                    transcript.english,
                )
                self.count += 1


def _longest(spoken_s: dict[str, float]) -> str:
    return max(spoken_s, key=lambda language: spoken_s[language], default="")


def _shifted(word: Word, window: Window) -> Word:
    start_s = min(window.start_s + word.start_s, window.end_s)
    return Word(word.text, start_s, min(max(start_s, window.start_s + word.end_s), window.end_s), word.probability)


def _joined(utterances: Sequence[Utterance]) -> Utterance:
    words = tuple(word for utterance in utterances for word in utterance.words)
    confidence = sum(utterance.confidence * len(utterance.words) for utterance in utterances) / len(words)
    return Utterance(words, confidence)
