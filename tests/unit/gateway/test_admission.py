"""What names a request."""

import pytest

from gateway.admission import Order, digest_of
from gateway.options import NarrativeOptions


class LaterOptions(NarrativeOptions):
    """Those of a release to come."""

    weather: str = ""


def order(options: NarrativeOptions, audio_digest: str = "a") -> Order:
    async def store(key: str) -> None:
        raise AssertionError("nothing is stored here")

    return Order(options, audio_digest, "talk.wav", "audio/wav", 1, store)


def test_a_request_stays_the_same_when_options_are_added() -> None:
    asked = digest_of(order(NarrativeOptions(seed=1)))
    assert asked == digest_of(order(NarrativeOptions(seed=1, scene_model="")))
    assert asked == digest_of(order(LaterOptions(seed=1)))


@pytest.mark.parametrize(
    "other",
    [
        order(NarrativeOptions(seed=2)),
        order(LaterOptions(seed=1, weather="rain")),
        order(NarrativeOptions(seed=1), audio_digest="b"),
    ],
)
def test_another_request_is_another(other: Order) -> None:
    assert digest_of(other) != digest_of(order(NarrativeOptions(seed=1)))
