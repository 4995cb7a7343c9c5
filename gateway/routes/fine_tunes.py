"""Fine-tunes: start, show, list, follow, cancel, take up again, delete."""

import contextlib
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway.auth import require_key
from gateway.fine_tunes import FineTune
from gateway.jobs import timestamp
from gateway.paging import cursor_of, from_cursor
from gateway.parts import Parts
from gateway.problems import responses
from gateway.sse import AFTER_THE_LAST, event_response
from gateway.store import fine_tune_key, sample_key
from narrative.errors import Conflict, NotFound, ServiceUnavailable

router = APIRouter(prefix="/v1/fine-tunes", tags=["fine-tuning"])

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
FineTuneId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="Id of a fine-tune.")]


class FineTuneRequest(BaseModel):
    """A training to start."""

    model_config = ConfigDict(extra="forbid")

    recipe: str = Field(max_length=64, description="One of GET /v1/recipes.")
    dataset: str = Field(pattern=r"^[0-9a-f]{32}$", description="Id of a data set.")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="By name, as the recipe's schema says; paths are paths inside the data set."
    )


class FineTuneShown(BaseModel):
    """State of a fine-tune."""

    id: str
    status: Status
    created_at: str = Field(description="UTC, RFC 3339.")
    finished_at: str | None = Field(description="UTC, RFC 3339; null until it has finished.")
    recipe: str
    dataset: str
    settings: dict[str, Any]
    adapter: str | None = Field(description="Name to draw with; null before the end, or where the result is none.")
    measures: dict[str, Any] | None = Field(description="What the recipe measured; null before the end.")
    error: dict[str, Any] | None = Field(description="Problem document (RFC 9457) of a fine-tune that failed.")
    links: dict[str, str] = Field(description="Paths of what belongs to it.")


class FineTunePage(BaseModel):
    """Fine-tunes from the newest."""

    data: list[FineTuneShown]
    next_cursor: str | None = Field(description="Pass as cursor for the next page; null on the last.")


@router.post("", status_code=202, response_model=FineTuneShown, responses=responses(401, 404, 409, 413, 422, 429, 503))
async def create(
    asked: FineTuneRequest,
    response: Response,
    gateway: Parts,
    caller: Annotated[str, Depends(require_key)],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> FineTuneShown:
    """Starts a training on a data set.

    The same Idempotency-Key with the same request gives the fine-tune made the first time.
    """
    job = await gateway.fine_tuner.admit(asked.recipe, asked.dataset, asked.settings, caller, idempotency_key)
    response.headers["Location"] = f"/v1/fine-tunes/{job.id}"
    return shown(job)


@router.get("", response_model=FineTunePage, responses=responses(401, 422))
async def page(
    gateway: Parts,
    status: Annotated[Status | None, Query(description="Only those in this status.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str, Query(max_length=200, description="next_cursor of the page before.")] = "",
) -> FineTunePage:
    """Lists fine-tunes from the newest."""
    jobs = await gateway.fine_tunes.page(status, from_cursor(cursor), limit + 1)
    more, jobs = len(jobs) > limit, jobs[:limit]
    next_cursor = cursor_of(jobs[-1].created_at_us, jobs[-1].id) if more else None
    return FineTunePage(data=[shown(job) for job in jobs], next_cursor=next_cursor)


@router.get("/{fine_tune_id}", response_model=FineTuneShown, responses=responses(401, 404, 422))
async def show(fine_tune_id: FineTuneId, gateway: Parts) -> FineTuneShown:
    """Shows the state of a fine-tune."""
    return shown(await gateway.fine_tunes.get(fine_tune_id))


@router.get(
    "/{fine_tune_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, 204: AFTER_THE_LAST, **responses(401, 404, 422)},
)
async def follow(
    fine_tune_id: FineTuneId,
    gateway: Parts,
    last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,9}$")] = None,
) -> Response:
    """Follows a fine-tune by server-sent events; send Last-Event-ID to go on where a stream broke off.

    Events: status, waiting, note, step, epoch, checkpoint, sample, result, stopped, and finished as the last.
    """
    return await event_response(gateway, gateway.fine_tunes, gateway.fine_tuner, fine_tune_id, last_event_id)


@router.post("/{fine_tune_id}/cancel", response_model=FineTuneShown, responses=responses(401, 404, 422))
async def cancel(fine_tune_id: FineTuneId, gateway: Parts) -> FineTuneShown:
    """Stops a fine-tune at a checkpoint; one that has finished stays as it is."""
    await gateway.fine_tunes.get(fine_tune_id)
    await gateway.fine_tuner.cancel(fine_tune_id)
    return shown(await gateway.fine_tunes.get(fine_tune_id))


@router.post(
    "/{fine_tune_id}/resume", status_code=202, response_model=FineTuneShown, responses=responses(401, 404, 409)
)
async def resume(fine_tune_id: FineTuneId, gateway: Parts) -> FineTuneShown:
    """Takes up a fine-tune that failed or was cancelled, from its last checkpoint."""
    job = await gateway.fine_tunes.get(fine_tune_id)
    await gateway.datasets.get(job.dataset)
    await gateway.fine_tuner.resume(fine_tune_id)
    return shown(await gateway.fine_tunes.get(fine_tune_id))


@router.get(
    "/{fine_tune_id}/samples/{step}/{name}",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **responses(401, 404, 422)},
)
async def sample(
    fine_tune_id: FineTuneId,
    step: Annotated[int, Path(ge=0)],
    name: Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")],
    gateway: Parts,
) -> Response:
    """A picture drawn while it was training."""
    try:
        png = await gateway.objects.get(sample_key(fine_tune_id, step, name))
    except NotFound as error:
        raise NotFound(f"fine-tune {fine_tune_id} has no sample {name!r} of step {step}") from error
    return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})


@router.delete("/{fine_tune_id}", status_code=204, responses=responses(401, 404, 409, 422))
async def delete(fine_tune_id: FineTuneId, gateway: Parts) -> None:
    """Removes a finished fine-tune with its samples and checkpoints; its adapter stays."""
    job = await gateway.fine_tunes.get(fine_tune_id)
    if not job.is_finished:
        raise Conflict(f"fine-tune {fine_tune_id} is {job.status}; cancel it before you delete it")
    # A trainer that is away keeps checkpoints that nobody asks for again; that must not keep the rest.
    with contextlib.suppress(ServiceUnavailable):
        await gateway.trainer.forget(fine_tune_id)
    await gateway.objects.delete_folder(fine_tune_key(fine_tune_id))
    await gateway.fine_tuner.forget(fine_tune_id)
    await gateway.fine_tunes.delete(fine_tune_id)


def shown(job: FineTune) -> FineTuneShown:
    """A job as callers see it."""
    base = f"/v1/fine-tunes/{job.id}"
    return FineTuneShown.model_validate(
        {
            "id": job.id,
            "status": job.status,
            "created_at": timestamp(job.created_at_us),
            "finished_at": None if job.finished_at_us is None else timestamp(job.finished_at_us),
            "recipe": job.recipe,
            "dataset": job.dataset,
            "settings": job.settings,
            "adapter": job.adapter,
            "measures": job.measures,
            "error": job.error,
            "links": {"self": base, "events": f"{base}/events"},
        }
    )
