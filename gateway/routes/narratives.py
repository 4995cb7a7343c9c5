"""Narratives: make, show, list, follow, cancel, delete."""

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.admission import Order, admit
from gateway.auth import require_key
from gateway.intake import Recording, recording_part, text_field, upload_form
from gateway.jobs import UNFINISHED, Job, timestamp
from gateway.options import NarrativeOptions
from gateway.paging import cursor_of, from_cursor
from gateway.parts import Gateway, NarrativeId, Parts
from gateway.problems import invalid_parameter, responses
from gateway.sse import AFTER_THE_LAST, event_response
from narrative.errors import Conflict, InvalidInput, InvalidParameter

router = APIRouter(prefix="/v1/narratives", tags=["narratives"])

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class Narrative(BaseModel):
    """State of a narrative."""

    id: str
    status: Status
    created_at: str = Field(description="UTC, RFC 3339.")
    finished_at: str | None = Field(description="UTC, RFC 3339; null until it has finished.")
    filename: str
    options: dict[str, Any]
    error: dict[str, Any] | None = Field(description="Problem document (RFC 9457) of a narrative that failed.")
    links: dict[str, str] = Field(description="Paths of what belongs to it.")


class NarrativePage(BaseModel):
    """Narratives from the newest."""

    data: list[Narrative]
    next_cursor: str | None = Field(description="Pass as cursor for the next page; null on the last.")


class NarrativeRequest(BaseModel):
    """A narrative of a recording that was uploaded before."""

    model_config = ConfigDict(extra="forbid")

    object: str = Field(description="What POST /v1/uploads answered.", pattern=r"^uploads/[0-9a-f]{32}$")
    options: NarrativeOptions = Field(default_factory=NarrativeOptions)


# A place in the document, for only of what FastAPI reads itself does it keep the parts in a place of its own.
_DEFS = "#/paths/~1v1~1narratives/post/requestBody/content/application~1json/schema/$defs/{model}"
_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "Audio or video file."},
        "options": {"type": "string", "description": "NarrativeOptions as JSON text."},
    },
}


@router.post(
    "",
    status_code=202,
    response_model=Narrative,
    responses=responses(401, 404, 409, 413, 422, 429),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": _FORM},
                "application/json": {"schema": NarrativeRequest.model_json_schema(ref_template=_DEFS)},
            },
        }
    },
)
async def create(
    request: Request,
    response: Response,
    gateway: Parts,
    caller: Annotated[str, Depends(require_key)],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Narrative:
    """Starts a narrative of a recording, sent along or uploaded before.

    The same Idempotency-Key with the same request gives the narrative made the first time.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        async with upload_form(request, gateway.settings.max_upload_bytes) as form:
            options = _options(text_field(form, "options") or "{}")
            unknown = set(form) - {"file", "options"}
            if unknown:
                raise InvalidParameter(f"unknown parts: {', '.join(sorted(unknown))}; there are file and options")
            recording = recording_part(form, gateway.settings.max_upload_bytes)
            job = await admit(gateway, _order(recording, options, gateway), caller, idempotency_key)
    else:
        job = await admit(gateway, await _uploaded_order(request, gateway), caller, idempotency_key)
    response.headers["Location"] = f"/v1/narratives/{job.id}"
    return shown(job)


@router.get("", response_model=NarrativePage, responses=responses(401, 422))
async def page(
    gateway: Parts,
    status: Annotated[Status | None, Query(description="Only those in this status.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str, Query(max_length=200, description="next_cursor of the page before.")] = "",
) -> NarrativePage:
    """Lists narratives from the newest."""
    jobs = await gateway.jobs.page(status, from_cursor(cursor), limit + 1)
    more = len(jobs) > limit
    jobs = jobs[:limit]
    return NarrativePage(
        data=[shown(job) for job in jobs], next_cursor=cursor_of(jobs[-1].created_at_us, jobs[-1].id) if more else None
    )


@router.get("/{narrative_id}", response_model=Narrative, responses=responses(401, 404, 422))
async def show(narrative_id: NarrativeId, gateway: Parts) -> Narrative:
    """Shows the state of a narrative."""
    return shown(await gateway.jobs.get(narrative_id))


@router.get(
    "/{narrative_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, 204: AFTER_THE_LAST, **responses(401, 404, 422)},
)
async def follow(
    narrative_id: NarrativeId,
    gateway: Parts,
    last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,9}$")] = None,
) -> Response:
    """Follows a narrative by server-sent events; send Last-Event-ID to go on where a stream broke off.

    Events: status, stage, waiting, transcript, scene, image_step, image, and finished as the last.
    """
    return await event_response(gateway, gateway.jobs, gateway.narrator, narrative_id, last_event_id)


@router.post("/{narrative_id}/cancel", response_model=Narrative, responses=responses(401, 404, 422))
async def cancel(narrative_id: NarrativeId, gateway: Parts) -> Narrative:
    """Stops a narrative; one that has finished stays as it is."""
    await gateway.jobs.get(narrative_id)
    await gateway.narrator.cancel(narrative_id)
    return shown(await gateway.jobs.get(narrative_id))


@router.delete("/{narrative_id}", status_code=204, responses=responses(401, 404, 409, 422))
async def delete(narrative_id: NarrativeId, gateway: Parts) -> None:
    """Removes a finished narrative with its recording, transcript and pictures; cancel one that runs first."""
    job = await gateway.jobs.get(narrative_id)
    if not job.is_finished:
        raise Conflict(f"narrative {narrative_id} is {job.status}; cancel it before you delete it")
    await gateway.retention.erase(narrative_id)


def shown(job: Job) -> Narrative:
    """A job as callers see it."""
    base = f"/v1/narratives/{job.id}"
    links = {"self": base, "events": f"{base}/events", "audio": f"{base}/audio"}
    if job.status not in UNFINISHED:
        links["transcript"] = f"{base}/transcript.json"
    if job.status == "succeeded":
        links |= {"story": f"{base}/story.json", "page": f"{base}/story.html"}
    return Narrative.model_validate(
        {
            "id": job.id,
            "status": job.status,
            "created_at": timestamp(job.created_at_us),
            "finished_at": None if job.finished_at_us is None else timestamp(job.finished_at_us),
            "filename": job.filename,
            "options": job.options,
            "error": job.error,
            "links": links,
        }
    )


def _options(text: str) -> NarrativeOptions:
    try:
        return NarrativeOptions.model_validate_json(text)
    except ValidationError as error:
        raise invalid_parameter(error, "options") from error


def _order(recording: Recording, options: NarrativeOptions, gateway: Gateway) -> Order:
    async def check() -> None:
        await recording.check(gateway.settings.max_duration_s)

    async def store_audio(key: str) -> None:
        await gateway.objects.put(key, recording.content or recording.opened())

    return Order(
        options=options,
        filename=recording.filename,
        media_type=recording.media_type,
        audio_bytes=recording.size_bytes,
        audio_digest=recording.sha256,
        check=check,
        store_audio=store_audio,
        audio=recording.content,
    )


async def _uploaded_order(request: Request, gateway: Gateway) -> Order:
    if not request.headers.get("content-type", "").lower().startswith("application/json"):
        raise InvalidInput("send multipart/form-data with a part named file, or application/json that names an upload")
    try:
        asked = NarrativeRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise invalid_parameter(error) from error
    meta = json.loads(await gateway.objects.get(f"{asked.object}/meta.json"))

    async def audio_digest() -> str:
        return str(meta["sha256"])

    async def checked_before() -> None: ...

    async def store_audio(key: str) -> None:
        await gateway.objects.copy(f"{asked.object}/audio", key)

    return Order(
        options=asked.options,
        filename=meta["filename"],
        media_type=meta["media_type"],
        audio_bytes=meta["size_bytes"],
        audio_digest=audio_digest,
        check=checked_before,
        store_audio=store_audio,
    )
