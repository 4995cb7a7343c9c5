"""The recording that a command is given, and how it is listened to."""

from pathlib import Path
from typing import Annotated

import typer

from narrative.errors import InvalidParameter

Recording = Annotated[Path, typer.Argument(help="Audio or video file: wav, flac, mp3, m4a, ogg, webm, mp4, mkv.")]

Language = Annotated[str, typer.Option(help="ISO 639-1 code of the language spoken; detected by default.")]
Speakers = Annotated[int | None, typer.Option(min=1, max=64, help="Number of speakers; estimated by default.")]
MinSpeakers = Annotated[int | None, typer.Option(min=1, max=64, help="Fewest speakers that the estimate may come to.")]
MaxSpeakers = Annotated[int | None, typer.Option(min=1, max=64, help="Most speakers that the estimate may come to.")]
Temperature = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="Sampling temperature of the speech model; 0 is greedy.")
]


def check_recording(file: Path) -> None:
    """Raises InvalidParameter where there is no file at a path."""
    if file.is_dir():
        raise InvalidParameter(f"{file} is a folder; name a recording in it", field="file")
    if not file.is_file():
        raise InvalidParameter(f"{file}: no such file", field="file")
