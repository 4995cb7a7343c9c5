"""When an answer that comes in pieces can be cancelled; the work here is made up."""

import asyncio

import pytest

from narrative.errors import Cancelled
from narrative.runtime import triton_stream
from narrative.runtime.triton_stream import End, Stream


async def told_by(stream: Stream, told: list[bytes | End], pieces: list[bytes], ends: asyncio.Event) -> None:
    async def work() -> None:
        for piece in pieces:
            stream.tell(piece)
        await ends.wait()
        stream.tell(End())

    stream.begin(work())
    while len(told) < len(pieces):
        await asyncio.sleep(0)


@pytest.fixture
def told() -> list[bytes | End]:
    return []


@pytest.fixture
async def stream(told: list[bytes | End]) -> Stream:
    def tell(answer: bytes | End) -> bool:
        told.append(answer)
        return answer == b"last step"

    return Stream(asyncio.get_running_loop(), tell)


async def until_ended(told: list[bytes | End]) -> End:
    async with asyncio.timeout(5):
        while not (told and isinstance(told[-1], End)):
            await asyncio.sleep(0.01)
    assert isinstance(told[-1], End)
    return told[-1]


async def test_work_that_goes_on_is_cancelled(stream: Stream, told: list[bytes | End]) -> None:
    await told_by(stream, told, [b"step"], asyncio.Event())
    stream.cancel()
    assert isinstance((await until_ended(told)).error, Cancelled)


async def test_what_is_all_but_done_is_heard_out(stream: Stream, told: list[bytes | End]) -> None:
    ends = asyncio.Event()
    await told_by(stream, told, [b"step", b"last step"], ends)
    stream.cancel()
    await asyncio.sleep(0.05)
    assert told == [b"step", b"last step"]
    ends.set()
    assert await until_ended(told) == End()


async def test_an_end_that_does_not_come_is_not_waited_for_for_ever(
    stream: Stream, told: list[bytes | End], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_stream, "_HEAR_OUT_S", 0.05)
    await told_by(stream, told, [b"last step"], asyncio.Event())
    stream.cancel()
    assert isinstance((await until_ended(told)).error, Cancelled)
