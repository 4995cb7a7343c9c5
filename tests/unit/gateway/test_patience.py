import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway import patience
from gateway.patience import patiently
from narrative.errors import InvalidParameter, NarrativeError, QueueFull, ServiceUnavailable, StorageUnavailable


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.pauses_s.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience.time, "monotonic", clock.monotonic)
    monkeypatch.setattr(asyncio, "sleep", clock.sleep)
    return clock


async def run(errors: list[NarrativeError], window_s: float) -> tuple[str, list[str]]:
    waits: list[str] = []

    async def attempt() -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    async def on_wait(error: NarrativeError) -> None:
        waits.append(error.message)

    return await patiently(attempt, window_s, on_wait), waits


async def test_what_passes_is_waited_for_with_growing_pauses(clock: Clock) -> None:
    errors: list[NarrativeError] = [ServiceUnavailable(f"asr {n}") for n in range(4)]

    result, waits = await run(errors, 60.0)

    assert result == "done"
    assert waits == ["asr 0", "asr 1", "asr 2", "asr 3"]
    assert clock.pauses_s == sorted(clock.pauses_s)


async def test_the_service_says_when_to_come_back(clock: Clock) -> None:
    await run([QueueFull("full", retry_after_s=3.0)], 60.0)
    assert clock.pauses_s == [3.0]


async def test_the_window_ends(clock: Clock) -> None:
    with pytest.raises(ServiceUnavailable, match="asr"):
        await run([ServiceUnavailable("asr is away") for _ in range(1000)], 20.0)
    assert 20.0 <= clock.now_s < 26.0


async def test_what_does_not_pass_is_raised_at_once(clock: Clock) -> None:
    with pytest.raises(InvalidParameter):
        await run([InvalidParameter("size")], 60.0)
    assert clock.pauses_s == []


async def test_patience_within_patience_waits_once(clock: Clock) -> None:
    waits: list[str] = []

    async def attempt() -> None:
        raise StorageUnavailable("full")

    async def inner() -> None:
        await patiently(attempt, 10.0, wait("inner"))

    def wait(who: str) -> Callable[[NarrativeError], Awaitable[None]]:
        async def on_wait(error: NarrativeError) -> None:
            waits.append(who)

        return on_wait

    with pytest.raises(StorageUnavailable, match="full"):
        await patiently(inner, 30.0, wait("outer"))

    assert set(waits) == {"inner"}
