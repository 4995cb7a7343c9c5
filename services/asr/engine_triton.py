"""The engine on a Triton Inference Server: ``deploy/triton/models/asr`` runs ``WhisperEngine`` there."""

import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from narrative.errors import Cancelled, PayloadTooLarge
from narrative.runtime.triton import TritonModel, leases_of
from narrative.runtime.triton_stream import End
from narrative.v1 import asr_pb2
from services.asr.engine import Event, ModelInfo, TranscribeOptions
from services.asr.messages import read_event, write_options
from services.asr.model_list import ModelList
from services.asr.options import check_options
from services.asr.settings import AsrSettings

_LOOK_S = 0.1
# A recording goes over in one message of gRPC, which may be no larger than 2 GiB.
_MOST_BYTES = (2 << 30) - (1 << 20)


class TritonEngine:
    """Sends recordings and hands on what comes back; what can be asked for is read here, from files.

    Args:
        settings: those of the engine on the server, and where that is.
        diarizer: the one that the server uses.
    """

    def __init__(self, settings: AsrSettings, diarizer: ModelInfo) -> None:
        self._settings = settings
        self._diarizer = diarizer
        self._list = ModelList(settings)
        self._model = TritonModel(settings)

    def load(self) -> None:
        """Connects, and has the model loaded.

        Raises:
            WeightsError, ModelNotFound: a model of the settings is not here, or Triton has none of that name.
            ServiceUnavailable: the server is not there, or cannot load the model.
        """
        self._list.load()
        self._model.open(leases_of(self._model, self._settings, "asr", self._settings.max_workers))

    def close(self) -> None:
        self._model.close()

    def models(self) -> Sequence[ModelInfo]:
        return [*self._list.infos().values(), self._diarizer]

    def check(self, options: TranscribeOptions) -> None:
        info = self._list.info(options.model)
        check_options(options, [info.id], info.languages)

    def transcribe(self, path: Path, options: TranscribeOptions, cancelled: threading.Event) -> Iterator[Event]:
        """See ``AsrEngine``; raises those of ``TritonModel.call`` too.

        Raises:
            PayloadTooLarge: the file is too large for one message.
        """
        self.check(options)
        if (size_bytes := path.stat().st_size) > _MOST_BYTES:
            raise PayloadTooLarge(f"{options.shown_name} has {size_bytes} bytes; at most {_MOST_BYTES} go to Triton")
        answers: queue.SimpleQueue[bytes | End] = queue.SimpleQueue()
        tensors = {"REQUEST": write_options(options).SerializeToString(), "RECORDING": path.read_bytes()}
        stream = self._model.stream(tensors, "EVENT", answers.put)
        try:
            while not isinstance(answer := _next(answers, cancelled), End):
                yield read_event(asr_pb2.TranscribeResponse.FromString(answer))
            if answer.error is not None:
                raise answer.error
        finally:
            stream.cancel()


def _next(answers: "queue.SimpleQueue[bytes | End]", cancelled: threading.Event) -> bytes | End:
    while not cancelled.is_set():
        try:
            return answers.get(timeout=_LOOK_S)
        except queue.Empty:
            continue
    raise Cancelled("the caller gave up while the recording was being transcribed")
