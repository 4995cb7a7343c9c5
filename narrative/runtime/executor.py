"""Blocking work off the event loop: a few worker threads, and a queue that says no when it is full."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from narrative.errors import QueueFull
from narrative.runtime.metrics import QUEUE_DEPTH, RUNNING

T = TypeVar("T")


class BoundedExecutor:
    """Runs at most ``max_workers`` calls at a time and lets at most ``max_queue`` more wait.

    Args:
        service: name under which the metrics appear.
        max_workers: calls that work at the same time.
        max_queue: calls that may wait for a worker.
    """

    def __init__(self, service: str, max_workers: int, max_queue: int) -> None:
        self._service = service
        self._capacity = max_workers + max_queue
        self._max_workers = max_workers
        self._pool = ThreadPoolExecutor(max_workers, thread_name_prefix=service)
        self._lock = threading.Lock()
        self._pending = 0
        self._running = 0
        # Starts at a guess and follows the calls that ended, so that Retry-After means something.
        self._mean_call_s = 1.0

    async def run(self, function: Callable[[], T]) -> T:
        """Runs ``function`` on a worker.

        Raises:
            QueueFull: as many calls wait as may wait.
        """
        return await asyncio.wrap_future(self._submit(function))

    async def run_while_wanted(self, function: Callable[[threading.Event], T]) -> T:
        """Runs ``function`` on a worker.

        The event handed to it is set when the caller has gone away: where it waits, it should look at it often.

        Raises:
            QueueFull: as many calls wait as may wait.
        """
        cancelled = threading.Event()
        try:
            return await asyncio.wrap_future(self._submit(lambda: function(cancelled)))
        finally:
            cancelled.set()

    async def stream(self, make_iterator: Callable[[threading.Event], Iterator[T]]) -> AsyncIterator[T]:
        """Runs a blocking iterator on a worker and yields what it yields.

        The event handed to ``make_iterator`` is set when the caller has gone away: the iterator should look at it
        often and return. It is closed in any case, on its own thread, before the worker takes the next call.

        Raises:
            QueueFull: as many calls wait as may wait.
        """
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[T | None] = asyncio.Queue()
        cancelled = threading.Event()

        def put(item: T | None) -> None:
            with contextlib.suppress(
                RuntimeError
            ):  # The loop is closed when the process stops in the middle of a call.
                loop.call_soon_threadsafe(items.put_nowait, item)

        def work() -> None:
            try:
                if cancelled.is_set():
                    return
                with contextlib.closing(_as_generator(make_iterator(cancelled))) as iterator:
                    for item in iterator:
                        if cancelled.is_set():
                            return
                        put(item)
            finally:
                put(None)

        future = self._submit(work)
        try:
            while (item := await items.get()) is not None:
                yield item
            await asyncio.wrap_future(future)
        finally:
            cancelled.set()
            future.cancel()

    def close(self) -> None:
        """Waits for running calls and forgets those that wait."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, function: Callable[[], T]) -> Future[T]:
        with self._lock:
            if self._pending >= self._capacity:
                waiting = self._pending - self._max_workers
                retry_after_s = max(1.0, self._mean_call_s * (waiting + 1) / self._max_workers)
                raise QueueFull(
                    f"{self._service}: {waiting} requests wait already, as many as may; try again later",
                    retry_after_s=round(retry_after_s, 1),
                )
            self._pending += 1
            self._report()

        def work() -> T:
            started = time.monotonic()
            with self._lock:
                self._running += 1
                self._report()
            try:
                return function()
            finally:
                with self._lock:
                    self._running -= 1
                    self._mean_call_s = 0.8 * self._mean_call_s + 0.2 * (time.monotonic() - started)

        future = self._pool.submit(work)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: Future[T]) -> None:
        with self._lock:
            self._pending -= 1
            self._report()

    def _report(self) -> None:
        QUEUE_DEPTH.labels(self._service).set(max(0, self._pending - self._running))
        RUNNING.labels(self._service).set(self._running)


def _as_generator(iterator: Iterator[T]) -> Generator[T, None, None]:
    yield from iterator
