"""What belongs to a narrative: recording, transcript, pictures, story."""

import hashlib
import json
import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Path
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from gateway.jobs import SUCCEEDED, Job
from gateway.parts import Gateway, NarrativeId, Parts
from gateway.problems import responses
from gateway.store import audio_key, image_key, story_key, transcript_key
from gateway.story import CONTENT_SECURITY_POLICY, render
from narrative.errors import Conflict, NotFound

router = APIRouter(prefix="/v1/narratives/{narrative_id}", tags=["narratives"])

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
Index = Annotated[int, Path(ge=0, le=100_000, description="Number of the picture, from 0.")]


@router.get(
    "/images/{index}",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **responses(401, 404, 422)},
)
async def image(
    narrative_id: NarrativeId, index: Index, gateway: Parts, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """A picture, as soon as it is drawn."""
    await gateway.jobs.get(narrative_id)
    try:
        png = await gateway.objects.get(image_key(narrative_id, index))
    except NotFound as error:
        raise NotFound(f"narrative {narrative_id} has no picture {index}, or not yet") from error
    # The same picture until the narrative is deleted, but not for everybody.
    headers = {"ETag": f'"{hashlib.sha256(png).hexdigest()}"', "Cache-Control": "private, max-age=86400"}
    if if_none_match is not None and headers["ETag"] in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(png, media_type="image/png", headers=headers)


@router.get(
    "/audio",
    response_class=StreamingResponse,
    responses={200: {"content": {"audio/*": {}}}, **responses(401, 404, 416, 422)},
)
async def audio(
    narrative_id: NarrativeId, gateway: Parts, range_: Annotated[str | None, Header(alias="range")] = None
) -> Response:
    """The recording as it was sent; answers byte ranges, so that a player can seek."""
    job = await gateway.jobs.get(narrative_id)
    key, size = audio_key(narrative_id), job.audio_bytes
    start, end = 0, size
    headers = {"Accept-Ranges": "bytes", "X-Content-Type-Options": "nosniff"}
    wanted = _RANGE.fullmatch(range_ or "")
    if wanted is not None and wanted.group() != "bytes=-":
        first, last = wanted.groups()
        start = int(first) if first else max(0, size - int(last))
        end = min(int(last) + 1, size) if first and last else size
        if start >= end:
            raise HTTPException(416, f"range: the recording has {size} bytes", {"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    return StreamingResponse(
        gateway.objects.stream(key, start, end),
        status_code=200 if start == 0 and end == size and wanted is None else 206,
        media_type=job.media_type if job.media_type.startswith(("audio/", "video/")) else "application/octet-stream",
        headers=headers,
    )


@router.get("/transcript.json", responses=responses(401, 404, 422))
async def transcript(narrative_id: NarrativeId, gateway: Parts) -> JSONResponse:
    """Who said what; there as soon as the recording is transcribed, whatever becomes of the narrative."""
    await gateway.jobs.get(narrative_id)
    try:
        return JSONResponse(json.loads(await gateway.objects.get(transcript_key(narrative_id))))
    except NotFound as error:
        raise NotFound(f"narrative {narrative_id} has no transcript, or not yet") from error


@router.get("/story.json", responses=responses(401, 404, 409, 422))
async def story_json(narrative_id: NarrativeId, gateway: Parts) -> JSONResponse:
    """The story: segments, speakers, their scenes, prompts and pictures."""
    return JSONResponse(await _story(gateway, await gateway.jobs.get(narrative_id)))


@router.get("/story.html", response_class=HTMLResponse, responses=responses(401, 404, 409, 422))
async def story_html(narrative_id: NarrativeId, gateway: Parts) -> HTMLResponse:
    """The story as one page that needs nothing else: player, transcript, scenes and pictures."""
    job = await gateway.jobs.get(narrative_id)
    story = await _story(gateway, job)
    pictures = {
        entry["index"]: await gateway.objects.get(image_key(narrative_id, entry["index"]))
        for speaker in story["speakers"]
        for entry in speaker["images"]
    }
    inline = job.audio_bytes <= gateway.settings.max_inline_audio_bytes
    recording = await gateway.objects.get(audio_key(narrative_id)) if inline else None
    html = render(story, pictures, recording, job.media_type)
    return HTMLResponse(html, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})


async def _story(gateway: Gateway, job: Job) -> dict[str, Any]:
    if job.status != SUCCEEDED:
        raise Conflict(f"narrative {job.id} is {job.status}; its story is there when it has succeeded")
    story: dict[str, Any] = json.loads(await gateway.objects.get(story_key(job.id)))
    return story
