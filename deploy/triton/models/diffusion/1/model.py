"""The engine of ``services.diffusion`` on Triton's Python backend; settings are those of the service."""

import contextlib
import queue
import time

from narrative.runtime.logging import configure_logging
from narrative.runtime.triton_backend import Replies, read_bytes, take_device
from narrative.v1 import diffusion_pb2
from services.diffusion.__main__ import make_engine
from services.diffusion.engine import Finished
from services.diffusion.messages import read_options, write_event
from services.diffusion.settings import DiffusionSettings

# To ask Triton whether a client has gone away is a message there and back.
LOOK_S = 0.25


class TritonPythonModel:
    """One instance; while it draws, Triton gathers the next batch, or has another instance draw it."""

    def initialize(self, args):
        settings = DiffusionSettings(engine="diffusers", device=take_device(args), residency_target="")
        configure_logging(settings.common, args["model_name"])
        self._engine = make_engine(settings)
        self._engine.load()

    def execute(self, requests):
        # Answers are sent from here: on the drawing thread every one of them would hold up the next step.
        events = queue.SimpleQueue()
        waiting = {Drawing(self._engine, request, events) for request in requests}
        looked_s = time.monotonic()
        while waiting:
            with contextlib.suppress(queue.Empty):
                drawing, event = events.get(timeout=LOOK_S)
                drawing.answer(event)
                if isinstance(event, Finished):
                    waiting.discard(drawing)
            if time.monotonic() - looked_s >= LOOK_S:
                looked_s = time.monotonic()
                for drawing in waiting:
                    drawing.look()

    def finalize(self):
        self._engine.close()


class Drawing:
    """One request, from its submission on."""

    def __init__(self, engine, request, events):
        self._replies = Replies(request, "EVENT")
        self._ticket = None
        try:
            options = diffusion_pb2.EditOptions.FromString(read_bytes(request, "REQUEST"))
            asked = read_options(options, read_bytes(request, "SOURCE"))
            self._ticket = engine.submit(asked, lambda event: events.put((self, event)))
        # A model that lets an exception out answers nobody.
        except Exception as error:
            events.put((self, Finished(error)))

    def answer(self, event):
        if isinstance(event, Finished):
            self._replies.finish(event.error)
        else:
            self._replies.send(write_event(event))

    def look(self):
        """Takes the request back if its client has gone away."""
        if self._ticket is not None and self._replies.cancelled:
            self._ticket.cancel()
