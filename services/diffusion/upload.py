"""Pictures that come from outside: decoded with limits."""

import io
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

from narrative.errors import ImageUndecodable, InvalidParameter

FORMATS = ("PNG", "JPEG", "WEBP")


def decode_picture(data: bytes, max_px: int) -> Image.Image:
    """Decodes a picture file to RGB, upright.

    The size is read from the header and checked before a pixel is decoded, so that a small file cannot fill the memory.

    Raises:
        ImageUndecodable: not a complete PNG, JPEG or WebP file.
        InvalidParameter: more than ``max_px`` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > max_px:
            raise InvalidParameter(
                f"the picture has {picture.width}x{picture.height} pixels; at most {max_px} pixels are accepted",
                field="image",
            )
        return ImageOps.exif_transpose(picture).convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ImageUndecodable(
            f"the picture cannot be decoded; send a complete file in one of {', '.join(FORMATS)}", field="image"
        ) from error
