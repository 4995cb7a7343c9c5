"""Transcription with OpenAI's request and response shapes, and speakers besides."""

import asyncio
from collections.abc import AsyncIterator
from typing import IO, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import ConfigDict, Field, ValidationError
from starlette.datastructures import FormData

from gateway.admission import check_speech
from gateway.intake import form_body, recording_part, upload_form
from gateway.options import Language, NameOrEmpty, SpeakerOptions
from gateway.parts import Parts
from gateway.problems import invalid_parameter, responses
from gateway.subtitles import as_srt, as_text, as_vtt
from gateway.transcript import collect
from narrative.errors import InvalidParameter, NoSpeech
from narrative.objects import CHUNK_BYTES
from narrative.v1 import asr_pb2

router = APIRouter(prefix="/v1/audio", tags=["openai"])


class TranscriptionOptions(SpeakerOptions):
    """Fields of the form beside the file."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: NameOrEmpty = Field("", description='Speech model; empty or "whisper-1" for the default.')
    language: Language = Field("", description="ISO 639-1 code; empty to detect it.")
    prompt: Literal[""] = Field("", description="Not supported: must be empty.")
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt"] = Field(
        "json", description="verbose_json has speakers and times."
    )
    temperature: float = Field(0.0, ge=0.0, le=1.0, allow_inf_nan=False, description="Sampling temperature.")
    timestamp_granularities: list[Literal["segment", "word"]] = Field(
        default=["segment"], description="For verbose_json; word adds the times of words."
    )


@router.post(
    "/transcriptions",
    responses={
        200: {"content": {"application/json": {}, "text/plain": {}, "text/vtt": {}}},
        **responses(401, 413, 422, 429, 503),
    },
    openapi_extra=form_body(
        {
            "type": "object",
            "required": ["file"],
            "properties": {
                "file": {"type": "string", "format": "binary"},
                **TranscriptionOptions.model_json_schema()["properties"],
            },
        }
    ),
)
async def transcriptions(request: Request, gateway: Parts) -> Response:
    """Transcribes a recording and says who spoke; answers when it is done."""
    async with upload_form(request, gateway.settings.max_upload_bytes) as form:
        options = _options(form)
        recording = recording_part(form, gateway.settings.max_upload_bytes)
        await recording.check(gateway.settings.max_duration_s)
        model = "" if options.model == "whisper-1" else options.model
        await check_speech(gateway, model, options.language, "model")
        counted = any((options.num_speakers, options.min_speakers, options.max_speakers))
        asked = asr_pb2.TranscribeOptions(
            filename=recording.filename,
            model=model,
            language=options.language,
            temperature=options.temperature,
            num_speakers=options.num_speakers or 0,
            min_speakers=options.min_speakers or 0,
            max_speakers=options.max_speakers or 0,
            word_timestamps="word" in options.timestamp_granularities,
            # Who spoke is not asked for, and finding out takes time.
            skip_diarization=options.response_format in ("json", "text") and not counted,
        )
        transcript = await collect(gateway.services, asked, _pieces(recording.opened()))
    if not transcript["segments"]:
        raise NoSpeech(f"{recording.filename or 'the recording'}: nobody speaks in it", field="file")
    return _answer(options, transcript)


def _options(form: FormData) -> TranscriptionOptions:
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name == "file":
            continue
        if not isinstance(value, str):
            raise InvalidParameter(f"{name} must be a text part, not a file", field=name)
        if name.removesuffix("[]") == "timestamp_granularities":
            fields.setdefault("timestamp_granularities", []).append(value)
        else:
            fields[name] = value
    try:
        return TranscriptionOptions.model_validate(fields)
    except ValidationError as error:
        raise invalid_parameter(error) from error


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield piece


def _answer(options: TranscriptionOptions, transcript: dict[str, Any]) -> Response:
    segments = transcript["segments"]
    match options.response_format:
        case "text":
            return PlainTextResponse(as_text(segments))
        case "srt":
            return PlainTextResponse(as_srt(segments))
        case "vtt":
            return Response(as_vtt(segments), media_type="text/vtt")
        case "json":
            return JSONResponse({"text": as_text(segments).strip()})
    words = [
        {"word": word["word"], "start": word["start_s"], "end": word["end_s"], "speaker": segment["speaker"]}
        for segment in segments
        for word in segment.get("words", [])
    ]
    verbose: dict[str, Any] = {
        "task": "transcribe",
        "language": transcript["language"],
        "duration": transcript["duration_s"],
        "text": as_text(segments).strip(),
        "speakers": transcript["speakers"],
        "segments": [_segment(segment, options.temperature) for segment in segments],
    }
    return JSONResponse(verbose | ({"words": words} if "word" in options.timestamp_granularities else {}))


def _segment(segment: dict[str, Any], temperature: float) -> dict[str, Any]:
    return {
        "id": segment["id"],
        "start": segment["start_s"],
        "end": segment["end_s"],
        "text": segment["text"],
        "speaker": segment["speaker"],
        "language": segment["language"],
        "confidence": segment["confidence"],
        "temperature": temperature,
    }
