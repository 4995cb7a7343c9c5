"""The sheet: pictures in rows and columns with their values beside and above them."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
from PIL import ImageDraw, ImageFont

from services.trainer.grid.plan import Axis

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_GAP_PX = 6
_FONT_PX = 13
_LINE_PX = 17
_MOST_LINES = 5


def lay_out(
    pictures: Sequence[Sequence[PIL.Image.Image]], rows: Axis, columns: Axis, caption: str, tile_px: int
) -> PIL.Image.Image:
    """Puts pictures on one sheet.

    Args:
        pictures: row by row.
        caption: what all cells share; it stands below.
        tile_px: width of a picture on the sheet; its height follows from its shape.
    """
    # The font that comes with Pillow: there is one on every machine, and it is the same.
    font = ImageFont.load_default(_FONT_PX)
    first = pictures[0][0]
    width, height = tile_px, round(tile_px * first.height / first.width)
    column_labels = [_wrapped(label, font, width) for label in labels_of(columns)]
    row_labels = [_wrapped(label, font, max(width, 120)) for label in labels_of(rows)]
    left = 2 * _GAP_PX + max(round(font.getlength(line)) for label in row_labels for line in label)
    top = 2 * _GAP_PX + _LINE_PX * max(map(len, column_labels))
    total = left + len(column_labels) * (width + _GAP_PX)
    below = _wrapped(caption, font, total - 2 * _GAP_PX, most=20) if caption else []
    sheet = PIL.Image.new(
        "RGB", (total, top + len(row_labels) * (height + _GAP_PX) + len(below) * _LINE_PX + _GAP_PX), "white"
    )
    pen = ImageDraw.Draw(sheet)

    def write(lines: Sequence[str], x: float, y: float) -> None:
        for number, line in enumerate(lines):
            pen.text((x, y + number * _LINE_PX), line, fill="black", font=font)

    for column, label in enumerate(column_labels):
        write(label, left + column * (width + _GAP_PX), _GAP_PX)
    for row, (label, line) in enumerate(zip(row_labels, pictures, strict=True)):
        y = top + row * (height + _GAP_PX)
        write(label, _GAP_PX, y + (height - len(label) * _LINE_PX) / 2)
        for column, picture in enumerate(line):
            tile = picture.convert("RGB").resize((width, height), PIL.Image.Resampling.LANCZOS)
            sheet.paste(tile, (left + column * (width + _GAP_PX), y))
    write(below, _GAP_PX, top + len(row_labels) * (height + _GAP_PX))
    return sheet


def labels_of(axis: Axis) -> list[str]:
    """What stands beside or above the pictures of each value."""
    if axis.name == "prompt":
        return list(axis.values)
    names = [Path(value).name for value in axis.values]
    # Of a folder its own name says enough, unless another has it too.
    shown = names if axis.name == "adapter" and len(set(names)) == len(names) else axis.values
    return [f"{axis.title} {value}" for value in shown]


def _wrapped(text: str, font: Font, width_px: int, most: int = _MOST_LINES) -> list[str]:
    """Lines that fit; what is left over after ``most`` of them is cut off."""
    letters = max(4, int(width_px / font.getlength("n")))
    lines = textwrap.wrap(text, letters) or [""]
    return lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1][: letters - 1]}…"]
