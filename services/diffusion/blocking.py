"""The blocking form of ``submit``, the same for every engine."""

import queue
from collections.abc import Iterator
from typing import Protocol

from services.diffusion.engine import Emit, Event, Finished, Image, ImageRequest, Step, Ticket


class Submits(Protocol):
    """The part of an engine that is needed here."""

    def submit(self, request: ImageRequest, emit: Emit) -> Ticket: ...


def generate(engine: Submits, request: ImageRequest) -> Iterator[Step | Image]:
    """Submits now, yields what comes; closing the iterator cancels the request."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    return _drain(engine.submit(request, events.put), events)


def _drain(ticket: Ticket, events: queue.SimpleQueue[Event]) -> Iterator[Step | Image]:
    try:
        while not isinstance(event := events.get(), Finished):
            yield event
        if event.error is not None:
            raise event.error
    finally:
        ticket.cancel()
