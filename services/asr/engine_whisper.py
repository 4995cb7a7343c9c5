"""The real engine: decode, find speech, tell speakers apart, transcribe window by window."""

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import structlog

from narrative.errors import Cancelled, NoSpeech
from narrative.runtime.residency import ResidencyClient
from services.asr.assembly import Assembly
from services.asr.decode import DecodeLimits, decode
from services.asr.engine import (
    SAMPLE_RATE_HZ,
    Diarizer,
    Event,
    ModelInfo,
    Progress,
    Span,
    Summary,
    TranscribeOptions,
    Turn,
)
from services.asr.models import TranscriptionModels
from services.asr.options import check_options, speaker_bounds
from services.asr.recording import Recording
from services.asr.settings import AsrSettings
from services.asr.vad import VoiceActivityDetector
from services.asr.whisper_text import Stretch
from services.asr.windows import Window, batch_windows, plan_windows

T = TypeVar("T")
log = structlog.get_logger()

# Share of a call after which each stage ends; transcription takes by far the longest.
_DECODED, _SPEECH_FOUND, _DIARIZED = 0.05, 0.1, 0.25
_SILENCE_PEAK = 10 ** (-60 / 20)
_WINDOW_S = 30.0


class WhisperEngine:
    """faster-whisper and a diarizer of one's choice."""

    def __init__(self, settings: AsrSettings, diarizer: Diarizer) -> None:
        self._settings = settings
        self._diarizer = diarizer
        self._vad = VoiceActivityDetector()
        self._models = TranscriptionModels(settings)
        self._leasing: ResidencyClient | None = None
        self._limits = DecodeLimits(
            settings.max_duration_s, settings.min_sample_rate_hz, settings.max_sample_rate_hz, settings.max_channels
        )

    def load(self) -> None:
        self._models.load()
        self._vad.load()
        residency = self._models.residency if self._settings.device == "cuda" else None
        if residency is None:
            self._diarizer.load(self._settings.device)
            return
        num_bytes = self._diarizer.num_bytes + int(self._settings.diarizer_working_bytes)
        residency.add(self._diarizer.info.id, num_bytes, self._diarizer)
        self._leasing = residency
        with residency.lease(self._diarizer.info.id):
            log.info("the diarizer takes turns", model=self._diarizer.info.id, num_bytes=num_bytes)

    def close(self) -> None:
        self._models.close()
        self._diarizer.offload()

    def models(self) -> Sequence[ModelInfo]:
        return [*self._models.infos().values(), self._diarizer.info]

    def check(self, options: TranscribeOptions) -> None:
        info = self._models.info(options.model)
        check_options(options, [info.id], info.languages)

    def transcribe(self, path: Path, options: TranscribeOptions, cancelled: threading.Event) -> Iterator[Event]:
        self.check(options)
        with Recording(self._settings.scratch_dir) as recording:
            decoding = decode(path, options.shown_name, recording, self._limits, cancelled)
            yield from _stage("decoding", 0.0, _DECODED, decoding)
            if recording.peak < _SILENCE_PEAK:
                raise NoSpeech(f"{options.shown_name} is silent; send a recording of somebody who speaks")
            finding = self._vad.find(recording, cancelled)
            speech = yield from _stage("speech detection", _DECODED, _SPEECH_FOUND, finding)
            if not speech:
                raise NoSpeech(f"nobody speaks in {options.shown_name}")
            turns = yield from self._turns(recording, speech, options, cancelled)
            yield from self._transcribe(recording, turns, options, cancelled)

    def _turns(
        self, recording: Recording, speech: Sequence[Span], options: TranscribeOptions, cancelled: threading.Event
    ) -> Generator[Event, None, list[Turn]]:
        bounds = speaker_bounds(options, self._settings.max_speakers)
        if bounds.most == 1:
            return [Turn(span.start / SAMPLE_RATE_HZ, span.end / SAMPLE_RATE_HZ, "") for span in speech]
        with self._diarizer_on_device(cancelled):
            diarizing = self._diarizer.diarize(recording, speech, bounds, cancelled)
            return (yield from _stage("diarization", _SPEECH_FOUND, _DIARIZED, diarizing))

    def _diarizer_on_device(self, cancelled: threading.Event) -> AbstractContextManager[object]:
        if self._leasing is None:
            return nullcontext()
        return self._leasing.lease(self._diarizer.info.id, cancelled=cancelled)

    def _transcribe(
        self, recording: Recording, turns: Sequence[Turn], options: TranscribeOptions, cancelled: threading.Event
    ) -> Iterator[Event]:
        model = self._models.info(options.model).id
        whisper = self._models.open(model)
        # A translation belongs to a window as a whole, so such a window must not hold two speakers either.
        one_speaker = not options.language or options.translate_to_english
        windows = plan_windows(turns, recording.duration_s, one_speaker=one_speaker, max_s=_WINDOW_S)
        assembly = Assembly(words=options.word_timestamps, merge=options.translate_to_english)
        for batch in batch_windows(windows, whisper.context_s, self._settings.batch_size):
            done = batch[0].start_s / recording.duration_s
            yield Progress("transcription", _DIARIZED + (1 - _DIARIZED) * done)
            if cancelled.is_set():
                raise Cancelled("the caller gave up while the recording was being transcribed")
            stretches = [Stretch(_read(recording, w), options.language, assembly.likely_language(w)) for w in batch]
            with self._models.using(model, cancelled) as whisper:
                transcripts = whisper.transcribe(
                    stretches, temperature=options.temperature, translate=options.translate_to_english
                )
            for window, transcript in zip(batch, transcripts, strict=True):
                yield from assembly.segments(window, transcript)
        if not assembly.count:
            raise NoSpeech(f"there are sounds like speech in {options.shown_name}, but no words")
        yield Progress("transcription", 1.0)
        yield Summary(recording.duration_s, assembly.speakers, assembly.main_language, model, self._diarizer.info.id)


def _stage(name: str, begin: float, end: float, work: Generator[float, None, T]) -> Generator[Event, None, T]:
    """Runs a stage: the shares it yields become progress of the whole call."""
    yield Progress(name, begin)
    while True:
        try:
            share = next(work)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        yield Progress(name, begin + (end - begin) * share)


def _read(recording: Recording, window: Window) -> npt.NDArray[np.float32]:
    return recording.read(round(window.start_s * SAMPLE_RATE_HZ), round(window.end_s * SAMPLE_RATE_HZ))
