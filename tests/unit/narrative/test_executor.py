"""Bounded work off the event loop."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from narrative.errors import QueueFull
from narrative.runtime.executor import BoundedExecutor


async def test_a_full_queue_says_when_to_come_back() -> None:
    executor, release = BoundedExecutor("test", max_workers=1, max_queue=1), threading.Event()
    working = [asyncio.ensure_future(executor.run(release.wait)) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(QueueFull) as caught:
        await executor.run(release.wait)

    assert caught.value.retry_after_s >= 1
    release.set()
    assert await asyncio.gather(*working) == [True, True]
    assert await executor.run(lambda: "room again") == "room again"
    executor.close()


async def test_a_call_hears_that_its_caller_has_gone() -> None:
    executor, begun, heard = BoundedExecutor("test", 1, 0), threading.Event(), threading.Event()

    def wait(cancelled: threading.Event) -> None:
        begun.set()
        if cancelled.wait(5):
            heard.set()

    calling = asyncio.ensure_future(executor.run_while_wanted(wait))
    assert await asyncio.to_thread(begun.wait, 5)
    calling.cancel()

    assert await asyncio.to_thread(heard.wait, 5)
    executor.close()


async def test_a_stream_yields_in_order_and_raises_what_the_iterator_raised() -> None:
    executor = BoundedExecutor("test", 1, 0)

    def numbers(_: threading.Event) -> Iterator[int]:
        yield from (1, 2)
        raise ValueError("broken")

    stream = executor.stream(numbers)

    assert [await anext(stream), await anext(stream)] == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        await anext(stream)
    executor.close()


async def test_leaving_a_stream_stops_the_work_and_frees_the_worker() -> None:
    executor, closed = BoundedExecutor("test", 1, 0), threading.Event()

    def endless(cancelled: threading.Event) -> Iterator[int]:
        try:
            while not cancelled.is_set():
                yield 1
        finally:
            closed.set()

    stream = executor.stream(endless)
    assert await anext(stream) == 1
    await stream.aclose()

    assert await asyncio.to_thread(closed.wait, 5)
    executor.close()
