"""A job's events as server-sent events."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

from gateway.parts import Gateway
from gateway.worker import Worker


def event_response(gateway: Gateway, worker: Worker[Any], job_id: str, last_event_id: str | None) -> StreamingResponse:
    """The events of a job after one of them, until it has finished."""
    return StreamingResponse(
        _event_stream(gateway, worker, job_id, int(last_event_id or 0)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _event_stream(gateway: Gateway, worker: Worker[Any], job_id: str, seq: int) -> AsyncIterator[str]:
    stream = gateway.events.follow(job_id, seq, gateway.settings.keep_alive_s, lambda: worker.is_running_here(job_id))
    async for event in stream:
        if event is None:
            yield ": keep-alive\n\n"
        else:
            # JSON text has no line breaks of its own.
            yield f"id: {event.seq}\nevent: {event.type}\ndata: {event.data}\n\n"
