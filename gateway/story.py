"""story.html: a story as one page that needs no network and no other file."""

import base64
from collections.abc import Mapping
from functools import cache
from typing import Any

import jinja2

# The page brings everything along; whatever a recording might smuggle in cannot load or send anything.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src data:; media-src 'self' blob: data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
# Hues far from one another, for speakers in order; they repeat after the last.
_HUES = (262, 18, 150, 205, 330, 45, 95, 290)


def render(story: Mapping[str, Any], pictures: Mapping[int, bytes], recording: bytes | None, media_type: str) -> str:
    """Renders a story.

    Args:
        story: what story.json holds.
        pictures: PNG files by number.
        recording: put into the page; linked as "audio" beside it where it is None.
        media_type: of the recording.
    """
    hues = {speaker["speaker"]: _HUES[number % len(_HUES)] for number, speaker in enumerate(story["speakers"])}
    return _template().render(
        story=story,
        hues=hues,
        pictures={index: _data_url("image/png", png) for index, png in pictures.items()},
        audio="audio" if recording is None else _data_url(media_type, recording),
        policy=CONTENT_SECURITY_POLICY,
    )


def clock(at_s: float) -> str:
    """Seconds as 1:02, or 1:02:03 from an hour on."""
    minutes, seconds = divmod(int(at_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def speaker_name(label: str) -> str:
    """ "SPEAKER_00" as people count: "Speaker 1"."""
    prefix, _, number = label.rpartition("_")
    return f"Speaker {int(number) + 1}" if prefix == "SPEAKER" and number.isdigit() else label


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gateway", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"clock": clock, "speaker_name": speaker_name}
    return environment.get_template("story.html.j2")


def _data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
