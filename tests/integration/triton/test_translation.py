"""The translation service on a real Triton server."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from narrative.errors import DeadlineExceeded, InvalidParameter, ModelNotFound, ServiceUnavailable
from narrative.ports import free_ports
from narrative.runtime.channel import open_channel
from narrative.runtime.server import ServiceServer
from narrative.runtime.triton import TritonModel
from narrative.v1 import translation_pb2, translation_pb2_grpc
from services.translation.engine_gloss import GlossEngine
from services.translation.engine_triton import TritonEngine
from services.translation.servicer import make_service
from services.translation.settings import TranslationSettings
from tests.integration.triton.triton_server import TritonServer


@pytest.fixture
def engine(triton: TritonServer) -> Iterator[TritonEngine]:
    engine = TritonEngine(TranslationSettings(triton_url=triton.url))
    engine.load()
    yield engine
    engine.close()


def test_texts_are_those_of_the_engine_in_process(engine: TritonEngine, speech: Path) -> None:
    texts = [line for line in (speech / "russian.txt").read_text().splitlines() if line.strip()]
    gloss = GlossEngine()
    gloss.load()

    translated = engine.translate(texts, "ru", "en")

    assert translated == gloss.translate(texts, "ru", "en")
    assert (engine.info.sources, engine.info.targets) == (gloss.info.sources, gloss.info.targets)
    gloss.close()


def test_requests_are_put_together_and_answered_each_with_its_own(engine: TritonEngine, triton: TritonServer) -> None:
    texts = ["кошка", "дом", "красное яблоко", "лес"] * 8
    alone = {text: engine.translate([text], "ru", "en") for text in set(texts)}
    # Words that it has never met keep it busy for a moment, or it would answer faster than threads can ask.
    begun = [a + b for a in ("бу", "го", "пе") for b in ("ди", "фо", "жа", "ме")]
    unmet = [" ".join(word + end for end in ("ла", "ну", "ки")) for word in begun]
    requests_before, batches_before = triton.executions("translation")

    with ThreadPoolExecutor(17) as pool:
        busy = pool.submit(engine.translate, unmet, "ru", "en")
        answers = list(pool.map(lambda text: engine.translate([text], "ru", "en"), texts))
        assert len(busy.result()) == len(unmet)

    requests, batches = triton.executions("translation")
    assert answers == [alone[text] for text in texts]
    assert requests - requests_before == len(texts) + 1
    assert batches - batches_before < len(texts)


def test_an_error_keeps_its_class_and_field_and_does_not_touch_its_neighbours(engine: TritonEngine) -> None:
    def refused() -> InvalidParameter:
        with pytest.raises(InvalidParameter, match="does not accept 'fr'; it accepts ru") as caught:
            engine.translate(["maison"], "fr", "en")
        return caught.value

    with ThreadPoolExecutor(8) as pool:
        failures = [pool.submit(refused) for _ in range(4)]
        answers = [pool.submit(engine.translate, ["кошка"], "ru", "en") for _ in range(4)]

    assert {failure.result().field for failure in failures} == {"source_language"}
    assert all(answer.result() == answers[0].result() for answer in answers)


def test_a_model_that_somebody_unloaded_is_loaded_again(engine: TritonEngine, triton: TritonServer) -> None:
    before = engine.translate(["кошка"], "ru", "en")
    triton.unload("translation")

    assert engine.translate(["кошка"], "ru", "en") == before
    assert triton.states()["translation"] == "READY"


def test_a_model_that_answered_errors_can_be_unloaded(engine: TritonEngine, triton: TritonServer) -> None:
    for _ in range(32):
        with pytest.raises(InvalidParameter):
            engine.translate(["maison"], "fr", "en")

    triton.unload("translation")


def test_a_model_that_was_left_at_a_deadline_can_be_unloaded(triton: TritonServer) -> None:
    model = TritonModel(TranslationSettings(triton_url=triton.url, triton_timeout_s=0.005))
    texts = ["кошка сидит на окне и смотрит на снег"] * 50
    request = translation_pb2.TranslateRequest(texts=texts, source_language="ru", target_language="en", engine="gloss")
    model.open()
    try:
        for number in range(16):
            request.texts[:] = [f"{text} {number} {index}" for index, text in enumerate(texts)]
            with pytest.raises(DeadlineExceeded):
                model.call({"REQUEST": request.SerializeToString()}, "RESPONSE")
    finally:
        model.close()

    triton.unload("translation")


def test_no_request_is_left_lying(engine: TritonEngine) -> None:
    def seconds(_: int) -> float:
        started_s = time.monotonic()
        engine.translate(["кошка"], "ru", "en")
        return time.monotonic() - started_s

    waits = []
    for _ in range(30):
        with ThreadPoolExecutor(4) as pool:
            waits += pool.map(seconds, range(8))

    # With a bound on Triton's queue some twenty of them take half a second.
    assert sum(wait > 0.4 for wait in waits) <= 2


def test_a_model_that_the_repository_does_not_have_is_named_with_those_it_has(triton: TritonServer) -> None:
    engine = TritonEngine(TranslationSettings(triton_url=triton.url, triton_model="translator"))
    try:
        with pytest.raises(ModelNotFound, match=r"no model 'translator'.* has asr, diffusion, translation"):
            engine.load()
    finally:
        engine.close()


def test_a_server_that_is_not_there_is_named() -> None:
    (port,) = free_ports(1)
    engine = TritonEngine(TranslationSettings(triton_url=f"127.0.0.1:{port}", triton_startup_wait_s=0))
    try:
        with pytest.raises(ServiceUnavailable, match=rf"Triton cannot be reached \(127.0.0.1:{port}"):
            engine.load()
    finally:
        engine.close()


def test_a_model_that_was_killed_is_loaded_anew_and_a_server_that_was_is_found_again(own_triton: TritonServer) -> None:
    own_triton.start()
    engine = TritonEngine(TranslationSettings(triton_url=own_triton.url))
    try:
        engine.load()
        before = engine.translate(["кошка"], "ru", "en")

        own_triton.kill_model("translation")
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: engine.translate(["кошка"], "ru", "en"), range(4)))
        assert answers == [before] * 4

        own_triton.kill()
        with pytest.raises(ServiceUnavailable, match="Triton"):
            engine.translate(["кошка"], "ru", "en")
        own_triton.start()
        assert _once_it_is_found(lambda: engine.translate(["кошка"], "ru", "en")) == before
    finally:
        engine.close()
        # It would wait for what the killed process was working on.
        own_triton.kill()


def _once_it_is_found(translate: Callable[[], list[str]]) -> list[str]:
    """gRPC looks for a server that was away at intervals of up to two seconds."""
    until_s = time.monotonic() + 10
    while True:
        try:
            return translate()
        except ServiceUnavailable:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.1)


async def test_the_service_speaks_through_it(triton: TritonServer) -> None:
    settings = TranslationSettings(port=0, engines=["triton"], triton_url=triton.url)
    server = ServiceServer(make_service(settings), settings)
    port = await server.start()
    await server.load()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        response = await translation_pb2_grpc.TranslationServiceStub(channel).Translate(
            translation_pb2.TranslateRequest(texts=["кошка", ""], source_language="ru", target_language="en")
        )
    await server.stop()

    assert (list(response.texts), response.engine) == (["A cat", ""], "triton")
