"""When who calls: an open model, for load tests and for the simulation that is held against them."""

import random
from collections.abc import Iterator

# Shares of the kinds of request.
PROFILES = {
    "stories": {"story": 1.0},
    "transcriptions": {"transcription": 1.0},
    "pictures": {"picture": 1.0},
    "mixed": {"story": 0.5, "transcription": 0.2, "picture": 0.3},
}


def arrivals(profile: str, rate: float, seconds: float, seed: int = 1) -> Iterator[tuple[float, str]]:
    """Yields (seconds from the start, kind) of requests that arrive at random (Poisson), the same for the same seed."""
    chance = random.Random(seed)
    kinds, shares = list(PROFILES[profile]), list(PROFILES[profile].values())
    at_s = chance.expovariate(rate)
    while at_s < seconds:
        (kind,) = chance.choices(kinds, shares)
        yield at_s, kind
        at_s += chance.expovariate(rate)
