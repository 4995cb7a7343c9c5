"""`narrate transcribe`: who said what, and when."""

from enum import StrEnum
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


class Format(StrEnum):
    """Forms a transcript can have."""

    TEXT = "text"
    JSON = "verbose_json"
    SRT = "srt"
    VTT = "vtt"


def transcribe(
    file: Recording,
    form: Annotated[Format, typer.Option("--format", "-f", help="Form of the transcript.")] = Format.TEXT,
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
    asked: dict[str, Any] = {
        "response_format": form.value,
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
        answer = client.request("POST", "/v1/audio/transcriptions", files={"file": (file.name, audio)}, data=fields)
    if output is None:
        out.print(answer.text, soft_wrap=True)
    else:
        write(output, answer.content)
        err.print(f"wrote {output}")
