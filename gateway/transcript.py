"""From the asr service's stream to the transcript that is kept and shown."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from gateway.clients import Services
from gateway.options import NarrativeOptions
from gateway.speakers import WHISPER
from narrative.errors import ModelOutputInvalid
from narrative.v1 import asr_pb2

# Progress is for people; more often would only fill the table.
_PROGRESS_EVERY_S = 0.25

OnProgress = Callable[[str, float], None]


async def transcribe(
    services: Services, filename: str, options: NarrativeOptions, audio: AsyncIterator[bytes], on_progress: OnProgress
) -> dict[str, Any]:
    """Transcribes a recording for a narrative; see ``collect`` for what is returned."""
    asked = asr_pb2.TranscribeOptions(
        filename=filename,
        model=options.asr_model,
        language=options.language,
        num_speakers=options.num_speakers or 0,
        min_speakers=options.min_speakers or 0,
        max_speakers=options.max_speakers or 0,
        temperature=options.temperature,
        word_timestamps=options.word_timestamps,
        translate_to_english=options.translation_engine == WHISPER,
    )
    return await collect(services, asked, audio, on_progress)


async def collect(
    services: Services,
    options: asr_pb2.TranscribeOptions,
    audio: AsyncIterator[bytes],
    on_progress: OnProgress = lambda stage, fraction: None,
) -> dict[str, Any]:
    """Runs a transcription to its end.

    Returns:
        {"duration_s", "language", "speakers", "segments", "models"}; a segment is {"id", "speaker", "start_s", "end_s",
        "duration_s", "text", "language", "confidence", "english_text"} and "words" where they were asked for.
    """
    segments: list[dict[str, Any]] = []
    summary: asr_pb2.TranscriptSummary | None = None
    told_stage, told_at = "", 0.0
    async for response in services.transcribe(options, audio):
        kind = response.WhichOneof("payload")
        if kind == "progress":
            now = time.monotonic()
            if response.progress.stage != told_stage or now - told_at >= _PROGRESS_EVERY_S:
                told_stage, told_at = response.progress.stage, now
                on_progress(told_stage, response.progress.fraction)
        elif kind == "segment":
            segments.append(_segment(response.segment))
        elif kind == "summary":
            summary = response.summary
    if summary is None:
        raise ModelOutputInvalid("asr ended its answer without a summary")
    if told_stage:
        on_progress(told_stage, 1.0)
    return {
        "duration_s": summary.duration_s,
        "language": summary.language,
        "speakers": list(summary.speakers),
        "segments": segments,
        "models": {"transcription": summary.transcription_model, "diarization": summary.diarization_model},
    }


def _segment(segment: asr_pb2.Segment) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": segment.id,
        "speaker": segment.speaker,
        "start_s": round(segment.start_s, 3),
        "end_s": round(segment.end_s, 3),
        "duration_s": round(segment.end_s - segment.start_s, 3),
        "text": segment.text,
        "language": segment.language,
        "confidence": round(segment.confidence, 4),
        "english_text": segment.english_text,
    }
    if segment.words:
        found["words"] = [
            {
                "word": word.text,
                "start_s": round(word.start_s, 3),
                "end_s": round(word.end_s, 3),
                "probability": round(word.probability, 4),
            }
            for word in segment.words
        ]
    return found
