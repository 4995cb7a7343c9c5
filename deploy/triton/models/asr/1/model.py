"""The engine of ``services.asr`` on Triton's Python backend; settings are those of the service."""

import tempfile
import threading
from pathlib import Path

from narrative.runtime.logging import configure_logging
from narrative.runtime.triton_backend import Replies, read_bytes, take_device
from narrative.v1 import asr_pb2
from services.asr.__main__ import build_engine
from services.asr.messages import read_options, write_event
from services.asr.settings import AsrSettings


class TritonPythonModel:
    """One instance; while it transcribes Triton keeps what comes for another one, or in its queue."""

    def initialize(self, args):
        settings = AsrSettings(engine="whisper", device=take_device(args), residency_target="")
        configure_logging(settings.common, args["model_name"])
        self._scratch_dir = settings.scratch_dir
        self._engine = build_engine(settings)
        self._engine.load()

    def execute(self, requests):
        for request in requests:
            self._transcribe(request, Replies(request, "EVENT"))

    def finalize(self):
        self._engine.close()

    def _transcribe(self, request, replies):
        cancelled = threading.Event()
        try:
            options = read_options(asr_pb2.TranscribeOptions.FromString(read_bytes(request, "REQUEST")))
            with tempfile.NamedTemporaryFile(dir=self._scratch_dir, prefix="narrative-triton-") as file:
                file.write(read_bytes(request, "RECORDING"))
                file.flush()
                for event in self._engine.transcribe(Path(file.name), options, cancelled):
                    if replies.cancelled:
                        # The engine ends with Cancelled at its next look.
                        cancelled.set()
                    else:
                        replies.send(write_event(event))
        # A model that lets an exception out answers nobody.
        except Exception as error:
            replies.finish(error)
        else:
            replies.finish()
