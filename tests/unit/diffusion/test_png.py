"""PNG files keep what they were drawn with, and uploads are decoded with limits."""

import io

import PIL.Image
import pytest

from narrative.errors import ImageUndecodable, InvalidParameter
from services.diffusion.png import encode_png, read_parameters
from services.diffusion.upload import decode_picture


def test_parameters_survive_the_file():
    parameters = {"prompt": 'ein "Haus", домик 🏠\n', "seed": 2**64 - 1, "guidance_scale": 7.5, "adapters": []}
    assert read_parameters(encode_png(PIL.Image.new("RGB", (8, 8)), parameters)) == parameters


def test_pixels_survive_the_file():
    picture = PIL.Image.effect_noise((32, 16), 90).convert("RGB")
    with PIL.Image.open(io.BytesIO(encode_png(picture, {}))) as read:
        assert read.tobytes() == picture.tobytes()


def test_a_foreign_file_has_no_parameters(png_file):
    with pytest.raises(KeyError):
        read_parameters(png_file(8, 8))


def test_alpha_and_rotation_are_resolved():
    file = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (20, 10)).save(file, "JPEG", exif=exif)
    assert decode_picture(file.getvalue(), 1000).size == (10, 20)
    file = io.BytesIO()
    PIL.Image.new("RGBA", (20, 10)).save(file, "PNG")
    assert decode_picture(file.getvalue(), 1000).mode == "RGB"


def test_limits_and_formats(png_file):
    with pytest.raises(InvalidParameter, match="at most 99 pixels"):
        decode_picture(png_file(10, 10), 99)
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(file, "BMP")
    with pytest.raises(ImageUndecodable, match="PNG, JPEG, WEBP"):
        decode_picture(file.getvalue(), 1000)
