"""Pictures and prompts from folders; opened one batch at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import PIL.Image

from narrative.errors import ImageUndecodable, InvalidInput

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


def list_pictures(folder: Path) -> list[Path]:
    """Pictures of a folder in the order of their names.

    Raises:
        InvalidInput: no such folder, or no pictures in it.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise InvalidInput(f"{folder} holds no pictures; accepted are {', '.join(sorted(SUFFIXES))}")
    return paths


def open_in_batches(paths: Sequence[Path], size: int) -> Iterator[list[PIL.Image.Image]]:
    """RGB pictures, ``size`` at a time.

    Raises:
        ImageUndecodable: names the file.
    """
    for start in range(0, len(paths), size):
        yield [_open(path) for path in paths[start : start + size]]


def prompts_of(paths: Sequence[Path], prompts: Path | None) -> list[str]:
    """The prompt of each picture.

    Args:
        prompts: a file with one a line, in the order of the pictures; None for a ``.txt`` beside each.

    Raises:
        InvalidInput: a prompt is missing, or there are more than pictures.
    """
    try:
        if prompts is None:
            return [path.with_suffix(".txt").read_text(encoding="utf-8-sig").strip() for path in paths]
        lines = [line.strip() for line in prompts.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"prompts cannot be read: {error}") from error
    if len(lines) != len(paths):
        raise InvalidInput(f"{prompts} has {len(lines)} prompts for {len(paths)} pictures; one is needed for each")
    return lines


def _open(path: Path) -> PIL.Image.Image:
    try:
        with PIL.Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ImageUndecodable(f"{path} cannot be opened as a picture: {error}") from error
