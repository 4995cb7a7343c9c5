"""The drawing thread with the fake engine: events, cancellation, the full queue, closing."""

import itertools
import queue
import subprocess
import sys
import threading

import pytest

from narrative.errors import Cancelled, QueueFull, ServiceUnavailable
from services.diffusion.drawing_thread import DrawingThread
from services.diffusion.engine import Finished, Image, ImageRequest, Step
from services.diffusion.engine_fake import FakeEngine
from services.diffusion.png import read_parameters

TIMEOUT_S = 10


class Events:
    """Collects what an engine emits."""

    def __init__(self):
        self._events = queue.SimpleQueue()
        self.emit = self._events.put

    def next(self):
        return self._events.get(timeout=TIMEOUT_S)

    def all(self):
        """Everything up to and with ``Finished``."""
        events = []
        while not events or not isinstance(events[-1], Finished):
            events.append(self.next())
        return events


def test_steps_then_pictures_then_the_end(make_engine):
    events = list(make_engine(fake_batch_s=0).generate(ImageRequest("a", num_images=2, num_steps=3, seed=5)))
    steps = [event for event in events if isinstance(event, Step)]
    images = [event for event in events if isinstance(event, Image)]
    assert [(step.step, step.image_index) for step in steps] == list(itertools.product((1, 2, 3), (0, 1)))
    assert [(image.image_index, image.seed, image.batch_size) for image in images] == [(0, 5, 2), (1, 6, 2)]
    assert read_parameters(images[1].png) == {"model": "fake", "prompt": "a", "seed": 6}


def test_requests_of_several_callers_share_a_batch(make_engine):
    engine = make_engine(fake_batch_s=0, batch_window_ms=1000, max_batch_size=2)
    first, second = Events(), Events()
    engine.submit(ImageRequest("a"), first.emit)
    engine.submit(ImageRequest("b"), second.emit)
    assert [event.batch_size for event in first.all() + second.all() if isinstance(event, Image)] == [2, 2]


def test_a_cancelled_request_stops_while_its_neighbour_goes_on(make_engine):
    engine = make_engine(fake_batch_s=1, batch_window_ms=1000, max_batch_size=2)
    first, second = Events(), Events()
    ticket = engine.submit(ImageRequest("a", num_steps=50), first.emit)
    engine.submit(ImageRequest("b", num_steps=50), second.emit)
    assert first.next() == Step(0, 1, 50)
    ticket.cancel()
    assert not any(isinstance(event, Image) for event in first.all())
    images = [event for event in second.all() if isinstance(event, Image)]
    assert len(images) == 1


def test_closing_the_generator_cancels(make_engine):
    engine = make_engine(fake_batch_s=60, batch_window_ms=0)
    events = engine.generate(ImageRequest("a", num_steps=150))
    assert next(events) == Step(0, 1, 150)
    events.close()
    # The one thread is free for another long before the minute is over.
    other = Events()
    engine.submit(ImageRequest("b", num_steps=150), other.emit)
    assert other.next() == Step(0, 1, 150)


def test_cancelling_twice_or_after_the_end_is_harmless(make_engine):
    events = Events()
    ticket = make_engine(fake_batch_s=0).submit(ImageRequest("a"), events.emit)
    assert events.all()[-1] == Finished(None)
    ticket.cancel()
    ticket.cancel()
    with pytest.raises(queue.Empty):
        events._events.get_nowait()


def test_a_full_queue_refuses_and_a_cancelled_request_makes_room(make_engine):
    engine = make_engine(fake_batch_s=3600, max_queue=2, max_batch_size=1, batch_window_ms=0)
    running, waiting = Events(), Events()
    engine.submit(ImageRequest("a", num_steps=1), running.emit)
    # The first is on its way; what comes now waits.
    while len(engine._thread._planner):
        threading.Event().wait(0.001)
    ticket = engine.submit(ImageRequest("b", num_images=2), waiting.emit)
    with pytest.raises(QueueFull, match="2 pictures wait already, and at most 2") as full:
        engine.submit(ImageRequest("c"), running.emit)
    assert full.value.retry_after_s >= 1
    ticket.cancel()
    assert isinstance(waiting.all()[-1].error, Cancelled)
    engine.submit(ImageRequest("c"), waiting.emit)


def test_closing_tells_everyone(make_engine):
    engine = make_engine(fake_batch_s=3600, max_batch_size=1)
    running, waiting = Events(), Events()
    engine.submit(ImageRequest("a"), running.emit)
    engine.submit(ImageRequest("b"), waiting.emit)
    engine.close()
    for events in (running, waiting):
        assert isinstance(events.all()[-1].error, ServiceUnavailable)
    with pytest.raises(ServiceUnavailable):
        engine.submit(ImageRequest("c"), running.emit)


def test_an_error_while_drawing_reaches_every_request_of_the_batch_and_no_other(make_settings):
    settings = make_settings(batch_window_ms=1000, max_batch_size=2)
    engine = FakeEngine(settings)
    failing = [True]

    def draw(batch):
        if failing.pop():
            raise RuntimeError("broken")
        FakeEngine._draw(engine, batch)

    engine._thread = DrawingThread(draw, settings)
    failing.append(True)
    failing.reverse()
    engine.load()
    first, second = Events(), Events()
    engine.submit(ImageRequest("a"), first.emit)
    engine.submit(ImageRequest("b"), second.emit)
    for events in (first, second):
        assert isinstance(events.all()[-1].error, RuntimeError)
    failing[:] = [False]
    third = Events()
    engine.submit(ImageRequest("c", num_images=2), third.emit)
    assert third.all()[-1] == Finished(None)
    engine.close()


def test_the_ring_works_without_torch():
    """The fake must not need what the fake stands in for."""
    code = (
        "import sys; import services.diffusion.engine_fake, services.diffusion.servicer, services.diffusion.__main__;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'transformers', 'peft')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
