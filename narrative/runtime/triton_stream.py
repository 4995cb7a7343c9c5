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


# An end that does not come is not waited for any longer; what decodes a large picture is done by then.
_HEAR_OUT_S = 30.0

Tell = Callable[[bytes | End], bool | None]


class Stream:
    """An answer on its way.

    Args:
        loop: where it comes in.
        tell: what hears of it; see ``TritonModel.stream``.

    Attributes:
        is_ending: there is nothing to stop any more; whoever cancels has it heard out.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: Tell) -> None:
        self._loop = loop
        self._tell = tell
        self.is_ending = False
        self._task: asyncio.Task[None] | None = None

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts the work; on the loop."""
        self._task = self._loop.create_task(work)
        # Not in the work itself: that may be cancelled before it has begun.
        self._task.add_done_callback(self._ended)

    def tell(self, answer: bytes | End) -> None:
        """Hands an answer on; on the loop."""
        self.is_ending = bool(self._tell(answer))

    def cancel(self) -> None:
        """Ends the work, on the server too; harmless where it has ended, or is about to."""
        with contextlib.suppress(RuntimeError):  # Everything was closed.
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is None:
            return
        if self.is_ending:
            # A cancellation that meets the last answer has Triton keep the request for ever, and its model loaded.
            self._loop.call_later(_HEAR_OUT_S, self._task.cancel)
        else:
            self._task.cancel()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            self.tell(End(Cancelled("the request was cancelled")))
