"""Recordings sent ahead of their narratives."""

import json
import secrets

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from gateway.intake import form_body, recording_part, upload_form
from gateway.parts import Parts
from gateway.problems import responses

router = APIRouter(prefix="/v1/uploads", tags=["narratives"])


class Upload(BaseModel):
    """An uploaded recording."""

    object: str = Field(description="Name for POST /v1/narratives; kept for a day unless set otherwise.")
    size_bytes: int


@router.post(
    "",
    status_code=201,
    responses=responses(401, 413, 422),
    openapi_extra=form_body(
        {"type": "object", "required": ["file"], "properties": {"file": {"type": "string", "format": "binary"}}}
    ),
)
async def upload(request: Request, gateway: Parts) -> Upload:
    """Keeps a recording, so that narratives can be made of it without sending it again."""
    async with upload_form(request, gateway.settings.max_upload_bytes) as form:
        recording = recording_part(form, gateway.settings.max_upload_bytes)
        await recording.check(gateway.settings.max_duration_s)
        name = f"uploads/{secrets.token_hex(16)}"
        meta = {
            "sha256": await recording.sha256(),
            "filename": recording.filename,
            "media_type": recording.media_type,
            "size_bytes": recording.size_bytes,
        }
        await gateway.objects.put(f"{name}/audio", recording.opened())
        # Written last: an upload that was cut off has no meta, and so does not exist.
        await gateway.objects.put(f"{name}/meta.json", json.dumps(meta, ensure_ascii=False).encode())
    return Upload(object=name, size_bytes=recording.size_bytes)
