"""Transcripts as text, SubRip and WebVTT."""

from collections.abc import Sequence
from typing import Any


def as_text(segments: Sequence[dict[str, Any]]) -> str:
    return " ".join(segment["text"].strip() for segment in segments) + "\n"


def as_srt(segments: Sequence[dict[str, Any]]) -> str:
    """SubRip, with the speaker in front of every line."""
    blocks = [
        f"{number}\n{_clock(segment['start_s'], ',')} --> {_clock(segment['end_s'], ',')}\n"
        f"[{segment['speaker']}] {_one_line(segment['text'])}\n"
        for number, segment in enumerate(segments, start=1)
    ]
    return "\n".join(blocks)


def as_vtt(segments: Sequence[dict[str, Any]]) -> str:
    """WebVTT (W3C), with the speaker as a voice span."""
    blocks = [
        f"{_clock(segment['start_s'], '.')} --> {_clock(segment['end_s'], '.')}\n"
        f"<v {segment['speaker']}>{_escaped(_one_line(segment['text']))}</v>\n"
        for segment in segments
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _clock(at_s: float, point: str) -> str:
    milliseconds = round(at_s * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def _one_line(text: str) -> str:
    # A blank line would end the cue.
    return " ".join(text.split()).replace("-->", "→")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
