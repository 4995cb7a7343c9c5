"""The blocking form of ``submit``, the same for every engine."""

import queue
from collections.abc import Generator
from typing import Protocol

from services.diffusion.engine import Emit, Event, Finished, Image, ImageRequest, Step, Ticket


class Submits(Protocol):
    """The part of an engine that is needed here."""

    def submit(self, request: ImageRequest, emit: Emit) -> Ticket: ...


def generate(engine: Submits, request: ImageRequest) -> Generator[Step | Image, None, None]:
    """Submits when the first event is asked for, and yields what comes; closing the generator cancels the request."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    ticket = engine.submit(request, events.put)
    try:
        while not isinstance(event := events.get(), Finished):
            yield event
        if event.error is not None:
            raise event.error
    finally:
        ticket.cancel()
