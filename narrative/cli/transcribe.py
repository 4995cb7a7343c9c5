"""`narrate transcribe`: who said what, and when."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from narrative.cli.client import open_client
from narrative.cli.console import ApiKey, Url, err, out
from narrative.cli.output import check_file, write
from narrative.cli.recording import Recording, check_recording


class Format(StrEnum):
    """Forms a transcript can have."""

    TEXT = "text"
    JSON = "verbose_json"
    SRT = "srt"
    VTT = "vtt"


def transcribe(
    file: Recording,
    form: Annotated[Format, typer.Option("--format", "-f", help="Form of the transcript.")] = Format.TEXT,
    language: Annotated[str, typer.Option(help="ISO 639-1 code of the language spoken; detected by default.")] = "",
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
    asked = {"response_format": form.value, "language": language, "model": model}
    fields = {name: value for name, value in asked.items() if value}
    with open_client(url, api_key) as client, err.status(f"transcribing {file.name}"), file.open("rb") as audio:
        answer = client.request("POST", "/v1/audio/transcriptions", files={"file": (file.name, audio)}, data=fields)
    if output is None:
        out.print(answer.text, soft_wrap=True)
    else:
        write(output, answer.content)
        err.print(f"wrote {output}")
