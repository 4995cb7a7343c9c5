"""A job's events as server-sent events."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import Response, StreamingResponse

from gateway.jobs import JobTable
from gateway.parts import Gateway
from gateway.worker import Worker

# For the OpenAPI document: nothing comes after the event that was named.
AFTER_THE_LAST: dict[str, Any] = {"description": "It has finished, and that event was the last."}


async def event_response(
    gateway: Gateway, jobs: JobTable[Any], worker: Worker[Any], job_id: str, last_event_id: str | None
) -> Response:
    """The events of a job after one of them, until it has finished; 204 after the last.

    Raises:
        NotFound: there is no such job.
    """
    seq = int(last_event_id or 0)
    # What runs here is known and not over, and is not looked up.
    if not worker.is_running_here(job_id):
        job = await jobs.get(job_id)
        if seq and job.is_finished and not await gateway.events.since(job_id, seq):
            # Browsers connect again by themselves where a stream ends; this tells them to stay away.
            return Response(status_code=204)
    return StreamingResponse(
        _event_stream(gateway, worker, job_id, seq),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _event_stream(gateway: Gateway, worker: Worker[Any], job_id: str, seq: int) -> AsyncIterator[str]:
    stream = gateway.events.follow(job_id, seq, gateway.settings.keep_alive_s, lambda: worker.is_running_here(job_id))
    async for happened in stream:
        # JSON text has no line breaks of its own.
        lines = [f"id: {event.seq}\nevent: {event.type}\ndata: {event.data}\n\n" for event in happened]
        yield "".join(lines) or ": keep-alive\n\n"
