"""The messages of the contract as dataclasses, and back."""

from dataclasses import asdict, fields

from narrative.v1 import asr_pb2, common_pb2
from services.asr.engine import Event, ModelInfo, Progress, Segment, Summary, TranscribeOptions, Word

_TASKS = {
    "transcription": common_pb2.TASK_TRANSCRIPTION,
    "diarization": common_pb2.TASK_DIARIZATION,
}


def read_options(message: asr_pb2.TranscribeOptions) -> TranscribeOptions:
    return TranscribeOptions(**{field.name: getattr(message, field.name) for field in fields(TranscribeOptions)})


def write_options(options: TranscribeOptions) -> asr_pb2.TranscribeOptions:
    return asr_pb2.TranscribeOptions(**asdict(options))


def write_event(event: Event) -> asr_pb2.TranscribeResponse:
    match event:
        case Progress():
            return asr_pb2.TranscribeResponse(progress=common_pb2.Progress(**asdict(event)))
        case Segment():
            return asr_pb2.TranscribeResponse(segment=asr_pb2.Segment(**asdict(event)))
        case Summary():
            return asr_pb2.TranscribeResponse(summary=asr_pb2.TranscriptSummary(**asdict(event)))


def read_event(message: asr_pb2.TranscribeResponse) -> Event:
    match message.WhichOneof("payload"):
        case "progress":
            return Progress(message.progress.stage, message.progress.fraction)
        case "segment":
            return _read_segment(message.segment)
        case _:
            summary = message.summary
            return Summary(
                duration_s=summary.duration_s,
                speakers=tuple(summary.speakers),
                language=summary.language,
                transcription_model=summary.transcription_model,
                diarization_model=summary.diarization_model,
            )


def write_model(info: ModelInfo) -> common_pb2.Model:
    return common_pb2.Model(
        id=info.id,
        task=_TASKS[info.task],
        engine=info.engine,
        licence=info.licence,
        languages=info.languages,
        is_default=info.is_default,
    )


def _read_segment(segment: asr_pb2.Segment) -> Segment:
    return Segment(
        id=segment.id,
        speaker=segment.speaker,
        start_s=segment.start_s,
        end_s=segment.end_s,
        text=segment.text,
        language=segment.language,
        confidence=segment.confidence,
        words=tuple(Word(word.text, word.start_s, word.end_s, word.probability) for word in segment.words),
        english_text=segment.english_text,
    )
