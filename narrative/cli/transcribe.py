"""`narrate transcribe`: who said what, and when."""

from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from narrative.cli.client import open_client
from narrative.cli.console import ApiKey, Url, err, out
from narrative.cli.output import check_file, write
from narrative.cli.recording import (
    Language,
    MaxSpeakers,
    MinSpeakers,
    Recording,
    Speakers,
    Temperature,
    check_recording,
)
from narrative.errors import InvalidParameter

_PATH = "/v1/audio/transcriptions"


class Format(StrEnum):
    """Forms a transcript can have: those of the gateway, and one that is made here of its verbose_json."""

    SPEAKERS = "speakers"
    TEXT = "text"
    JSON = "verbose_json"
    SRT = "srt"
    VTT = "vtt"


def transcribe(
    file: Recording,
    form: Annotated[
        Format,
        typer.Option("--format", "-f", help="Form of the transcript; text leaves out who spoke, which is faster."),
    ] = Format.SPEAKERS,
    language: Language = "",
    speakers: Speakers = None,
    min_speakers: MinSpeakers = None,
    max_speakers: MaxSpeakers = None,
    words: Annotated[bool, typer.Option("--words", help="Also give every word's times; for verbose_json.")] = False,
    temperature: Temperature = None,
    model: Annotated[str, typer.Option(help="Transcription model by name; the default one otherwise.")] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write instead of the terminal.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = "",
) -> None:
    """Transcribe a recording and say who spoke."""
    check_recording(file)
    if output is not None:
        check_file(output)
    if words and form is not Format.JSON:
        raise InvalidParameter(f"--words goes with --format verbose_json; {form} has no place for them", field="words")
    counts = {"--speakers": speakers, "--min-speakers": min_speakers, "--max-speakers": max_speakers}
    for option, count in counts.items():
        if count is not None and form is Format.TEXT:
            raise InvalidParameter(f"{option} goes with a form that says who spoke; text does not", field="format")
    asked: dict[str, Any] = {
        "response_format": Format.JSON.value if form is Format.SPEAKERS else form.value,
        "language": language,
        "model": model,
        "num_speakers": speakers,
        "min_speakers": min_speakers,
        "max_speakers": max_speakers,
        "timestamp_granularities[]": "word" if words else "",
        "temperature": temperature,
    }
    fields = {name: str(value) for name, value in asked.items() if value not in ("", None)}
    with open_client(url, api_key) as client, err.status(f"transcribing {file.name}"), file.open("rb") as audio:
        sent: dict[str, Any] = {"files": {"file": (file.name, audio)}, "data": fields}
        if form is Format.SPEAKERS:
            transcript = _by_speaker(client.document("POST", _PATH, "segments", **sent)["segments"])
        else:
            transcript = client.request("POST", _PATH, **sent).text
    if output is None:
        out.print(transcript.removesuffix("\n"), soft_wrap=True)
    else:
        write(output, transcript.encode())
        err.print(f"wrote {output}")


def _by_speaker(segments: list[dict[str, Any]]) -> str:
    """A line for every turn: who spoke, and what was said until somebody else did."""
    turns = groupby(segments, key=lambda segment: str(segment["speaker"]))
    return "".join(f"{who}: {' '.join(' '.join(one['text'].split()) for one in said)}\n" for who, said in turns)
