"""What names a request."""

import pytest

from gateway.admission import digest_of
from gateway.options import NarrativeOptions


class LaterOptions(NarrativeOptions):
    """Those of a release to come."""

    weather: str = ""


def test_a_request_stays_the_same_when_options_are_added() -> None:
    asked = digest_of(NarrativeOptions(seed=1), "a")
    assert asked == digest_of(NarrativeOptions(seed=1, scene_model=""), "a")
    assert asked == digest_of(LaterOptions(seed=1), "a")


@pytest.mark.parametrize(
    ("options", "audio_digest"),
    [
        (NarrativeOptions(seed=2), "a"),
        (LaterOptions(seed=1, weather="rain"), "a"),
        (NarrativeOptions(seed=1), "b"),
    ],
)
def test_another_request_is_another(options: NarrativeOptions, audio_digest: str) -> None:
    assert digest_of(options, audio_digest) != digest_of(NarrativeOptions(seed=1), "a")
