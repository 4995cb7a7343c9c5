"""The recording that a command is given."""

from pathlib import Path
from typing import Annotated

import typer

from narrative.errors import InvalidParameter

Recording = Annotated[Path, typer.Argument(help="Audio or video file: wav, flac, mp3, m4a, ogg, webm, mp4, mkv.")]


def check_recording(file: Path) -> None:
    """Raises InvalidParameter where there is no file at a path."""
    if file.is_dir():
        raise InvalidParameter(f"{file} is a folder; name a recording in it", field="file")
    if not file.is_file():
        raise InvalidParameter(f"{file}: no such file", field="file")
