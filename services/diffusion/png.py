"""PNG files that carry the settings they were drawn with."""

import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

KEY = "parameters"


def encode_png(picture: Image.Image, parameters: Mapping[str, Any]) -> bytes:
    """The picture as a PNG file whose text chunk "parameters" is ``parameters`` as JSON."""
    info = PngInfo()
    # The JSON stays ASCII: a tEXt chunk is Latin-1, and most viewers read nothing else.
    info.add_text(KEY, json.dumps(parameters))
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=info, compress_level=4)
    return file.getvalue()


def read_parameters(png: bytes) -> dict[str, Any]:
    """The settings a PNG file was drawn with; the inverse of ``encode_png``.

    Raises:
        KeyError: the file carries none.
    """
    with Image.open(io.BytesIO(png)) as picture:
        picture.load()
        parameters: dict[str, Any] = json.loads(picture.info[KEY])
        return parameters
