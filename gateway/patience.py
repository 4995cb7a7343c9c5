"""Waiting for a service that is down or full."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from narrative.errors import Cancelled, NarrativeError, ResourceExhausted, ServiceUnavailable, StorageUnavailable

T = TypeVar("T")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
# What may go away by itself. Cancelled is a server that stopped in the middle of a call: when the gateway itself
# gives up, asyncio.CancelledError passes through instead.
PASSING = (ServiceUnavailable, StorageUnavailable, ResourceExhausted, Cancelled)
_WAITED = "waited for as long as may be"


async def patiently(
    attempt: Callable[[], Awaitable[T]],
    window_s: float,
    on_wait: Callable[[NarrativeError], Awaitable[None]],
    passing: tuple[type[NarrativeError], ...] = PASSING,
) -> T:
    """Tries again, with growing pauses, until ``window_s`` seconds have passed since the first failure.

    What an attempt has waited for in this way itself is not waited for again.

    Args:
        on_wait: told of the error before each pause.
        passing: errors that may go away by themselves.

    Raises:
        NarrativeError: the last error, or at once one that does not go away by itself.
    """
    pause_s = FIRST_WAIT_S
    until: float | None = None
    while True:
        try:
            return await attempt()
        except passing as error:
            if _WAITED in getattr(error, "__notes__", ()):
                raise
            now = time.monotonic()
            if until is None:
                until = now + window_s
            if now >= until:
                error.add_note(_WAITED)
                raise
            await on_wait(error)
            wait_s = max(pause_s * random.uniform(0.8, 1.2), min(error.retry_after_s, LONGEST_WAIT_S))  # noqa: S311
            await asyncio.sleep(min(wait_s, max(0.05, until - now)))
            pause_s = min(LONGEST_WAIT_S, pause_s * 2)
