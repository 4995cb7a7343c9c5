"""The production diarizer: a pyannote.audio pipeline from a local folder."""

import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import torch

from narrative.catalogue import Catalogue
from narrative.errors import Cancelled, OutOfMemory, WeightsError
from services.asr.devices import give_back_memory, torch_device, with_memory_of
from services.asr.engine import SAMPLE_RATE_HZ, Audio, ModelInfo, Span, SpeakerBounds, Turn
from services.asr.settings import AsrSettings


class PyannoteDiarizer:
    """Runs ``pyannote.audio`` without its telemetry; the recording is in memory once, as float32, while it runs."""

    def __init__(self, settings: AsrSettings) -> None:
        self._settings = settings
        self._pipeline: Any = None
        self.info = ModelInfo(Path(settings.pyannote_pipeline).name, "diarization", "pyannote", is_default=True)

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._folder().rglob("*") if file.is_file())

    def load(self, device: str) -> None:
        if self._pipeline is None:
            self._pipeline = self._read()
        try:
            with_memory_of(device, lambda: self._pipeline.to(torch.device(torch_device(device))))
        except OutOfMemory:
            self.offload()
            raise

    def offload(self) -> None:
        if self._pipeline is not None:
            self._pipeline.to(torch.device("cpu"))
        give_back_memory()

    def _folder(self) -> Path:
        return Catalogue().resolve(self._settings.pyannote_pipeline, self._settings.common.models_dir)

    def _read(self) -> Any:
        try:
            from pyannote.audio import Pipeline
            from pyannote.audio.telemetry import set_telemetry_metrics
        except ImportError as error:
            raise WeightsError(
                "the pyannote diarizer needs pyannote.audio: pip install 'colorized-narrative[pyannote]'"
            ) from error
        set_telemetry_metrics(False)
        torch.set_num_threads(self._settings.cpu_threads)
        folder = self._folder()
        try:
            pipeline = Pipeline.from_pretrained(folder)
        except Exception as error:
            raise WeightsError(f"{folder} is not a pyannote pipeline: {error}") from error
        if pipeline is None:
            raise WeightsError(f"{folder} is not a pyannote pipeline")
        return pipeline

    def diarize(
        self, audio: Audio, speech: Sequence[Span], bounds: SpeakerBounds, cancelled: threading.Event
    ) -> Generator[float, None, list[Turn]]:
        yield 0.0
        waveform = torch.from_numpy(audio.read(0, audio.samples))[None]

        def stop_if_cancelled(*_: object, **__: object) -> None:
            if cancelled.is_set():
                raise Cancelled("the caller gave up while the speakers were being told apart")

        def work() -> Any:
            return self._pipeline(
                {"waveform": waveform, "sample_rate": SAMPLE_RATE_HZ},
                hook=stop_if_cancelled,
                min_speakers=bounds.least,
                max_speakers=bounds.most,
            )

        output = with_memory_of("the device", work)
        # Where people talk at once, the exclusive form gives every moment to one of them, as words need it.
        tracks = output.exclusive_speaker_diarization.itertracks(yield_label=True)
        turns = [Turn(float(segment.start), float(segment.end), str(label)) for segment, _, label in tracks]
        # The detector heard speech that the pipeline gave to nobody: better one unknown speaker than lost words.
        return turns or [Turn(span.start / SAMPLE_RATE_HZ, span.end / SAMPLE_RATE_HZ, "unknown") for span in speech]
