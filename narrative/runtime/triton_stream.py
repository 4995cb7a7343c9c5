"""An answer of a Triton server that comes in pieces."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from narrative.errors import Cancelled, NarrativeError


@dataclass(frozen=True)
class End:
    """The last thing a stream tells: ``error`` says why it failed, None that it is complete."""

    error: NarrativeError | None = None


class Stream:
    """An answer on its way.

    Args:
        loop: where it comes in.
        tell: what hears of its cancellation.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: Callable[[bytes | End], None]) -> None:
        self._loop = loop
        self._tell = tell
        self._task: asyncio.Task[None] | None = None

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts the work; on the loop."""
        self._task = self._loop.create_task(work)
        # Not in the work itself: that may be cancelled before it has begun.
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Ends the work, on the server too; harmless where it has ended."""
        with contextlib.suppress(RuntimeError):  # Everything was closed.
            self._loop.call_soon_threadsafe(lambda: self._task and self._task.cancel())

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            self._tell(End(Cancelled("the request was cancelled")))
