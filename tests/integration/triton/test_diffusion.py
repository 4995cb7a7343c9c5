"""The diffusion service on a real Triton server, with Storybook behind it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import pytest

from narrative.errors import InvalidParameter, QueueFull, ServiceUnavailable
from services.diffusion.__main__ import make_engine
from services.diffusion.engine import DiffusionEngine, Event, Finished, Image, ImageRequest, Step
from services.diffusion.settings import DiffusionSettings
from tests.integration.triton.triton_server import TritonServer

pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


def engine_on(server: TritonServer, **settings: object) -> DiffusionEngine:
    engine = make_engine(DiffusionSettings(engine="triton", triton_url=server.url, **settings))  # type: ignore[arg-type]
    engine.load()
    return engine


@pytest.fixture(scope="module")
def engine(triton: TritonServer) -> Iterator[DiffusionEngine]:
    engine = engine_on(triton)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def in_process() -> Iterator[DiffusionEngine]:
    engine = make_engine(DiffusionSettings())
    engine.load()
    yield engine
    engine.close()


def request(seed: int = 7, num_images: int = 1, num_steps: int = 3) -> ImageRequest:
    return ImageRequest("a red fox in a forest", seed=seed, num_images=num_images, num_steps=num_steps)


def pictures(engine: DiffusionEngine, asked: ImageRequest) -> list[Image]:
    return [event for event in engine.generate(asked) if isinstance(event, Image)]


def test_pictures_are_those_of_the_engine_in_process_byte_for_byte(
    engine: DiffusionEngine, in_process: DiffusionEngine
) -> None:
    there, here = pictures(engine, request(num_images=2)), pictures(in_process, request(num_images=2))

    assert [one.png for one in there] == [one.png for one in here]
    assert [(one.seed, one.width, one.height) for one in there] == [(one.seed, one.width, one.height) for one in here]


def test_steps_come_one_by_one_before_the_picture(engine: DiffusionEngine) -> None:
    events = list(engine.generate(request(num_steps=4)))

    assert events[:-1] == [Step(0, step, 4) for step in range(1, 5)]
    assert isinstance(events[-1], Image)


def test_one_picture_more_than_may_wait_is_refused(triton: TritonServer) -> None:
    engine = engine_on(triton, max_queue=0, max_batch_size=1)
    events: SimpleQueue[Event] = SimpleQueue()
    engine.submit(request(), events.put)
    with pytest.raises(QueueFull, match="at most 1 may be"):
        engine.submit(request(), events.put)

    while not isinstance(events.get(), Finished):
        pass
    assert pictures(engine, request())
    engine.close()


def test_callers_are_drawn_together_and_each_gets_the_picture_it_would_get_alone(
    engine: DiffusionEngine, triton: TritonServer
) -> None:
    alone = {seed: pictures(engine, request(seed))[0].png for seed in range(8)}
    requests_before, batches_before = triton.executions("diffusion")

    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda seed: pictures(engine, request(seed))[0], range(8)))

    requests, batches = triton.executions("diffusion")
    assert {seed: one.png for seed, one in enumerate(drawn)} == alone
    assert requests - requests_before == 8
    assert batches - batches_before < 8
    assert max(one.batch_size for one in drawn) > 1


def test_what_is_wrong_with_a_request_is_said_before_it_is_sent(engine: DiffusionEngine) -> None:
    with pytest.raises(InvalidParameter, match="width is 33") as caught:
        engine.check(ImageRequest("a fox", width=33))
    assert caught.value.field == "width"


def test_a_request_that_is_cancelled_is_not_drawn_to_its_end(engine: DiffusionEngine) -> None:
    drawing = engine.generate(request(num_steps=150))
    assert isinstance(next(drawing), Step)
    drawing.close()

    began_s = time.monotonic()
    drawn = pictures(engine, request(num_steps=3))
    spent_s = time.monotonic() - began_s

    # 147 steps more would have gone before it.
    assert spent_s < 10 * drawn[0].duration_s + 1.0


def test_callers_that_leave_with_their_picture_do_not_keep_the_model_loaded(
    engine: DiffusionEngine, triton: TritonServer
) -> None:
    for seed in range(12):
        drawing = engine.generate(request(seed, num_steps=2))
        assert any(isinstance(event, Image) for event in drawing)
        drawing.close()

    triton.unload("diffusion")

    assert pictures(engine, request())


def test_a_server_that_dies_in_the_middle_is_an_error_at_once(own_triton: TritonServer) -> None:
    own_triton.start()
    engine = engine_on(own_triton)
    drawing = engine.generate(request(num_steps=150))
    assert isinstance(next(drawing), Step)

    own_triton.kill()

    with pytest.raises(ServiceUnavailable, match="Triton cannot be reached"):
        list(drawing)
    engine.close()
