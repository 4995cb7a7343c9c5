"""The translation service over real gRPC."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
import pytest_asyncio

from narrative.errors import InvalidParameter, QueueFull
from narrative.runtime.channel import open_channel, rpc_errors
from narrative.runtime.server import ServiceServer
from narrative.v1 import common_pb2, common_pb2_grpc, translation_pb2, translation_pb2_grpc
from services.translation.servicer import make_service
from services.translation.settings import TranslationSettings


@asynccontextmanager
async def running(**settings: object) -> AsyncIterator[grpc.aio.Channel]:
    chosen = TranslationSettings(port=0, **settings)
    server = ServiceServer(make_service(chosen), chosen)
    port = await server.start()
    await server.load()
    channel = open_channel(f"127.0.0.1:{port}")
    try:
        yield channel
    finally:
        await channel.close()
        await server.stop()


async def translate(
    channel: grpc.aio.Channel, *texts: str, source: str = "ru", target: str = "en", engine: str = ""
) -> translation_pb2.TranslateResponse:
    stub = translation_pb2_grpc.TranslationServiceStub(channel)
    request = translation_pb2.TranslateRequest(
        texts=texts, source_language=source, target_language=target, engine=engine
    )
    with rpc_errors("translation"):
        return await stub.Translate(request)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def two_engines() -> AsyncIterator[grpc.aio.Channel]:
    """One service for all requests that it refuses: loading gloss takes longer than they do."""
    async with running(engines=["fake", "gloss"]) as channel:
        yield channel


async def test_gloss_is_the_default_and_is_listed() -> None:
    async with running(engines=["gloss", "fake"]) as channel:
        answer = await translate(channel, "Две кошки спят на диване.", "", "Идёт снег.")
        listed = await common_pb2_grpc.ModelServiceStub(channel).ListModels(common_pb2.ListModelsRequest())
    assert list(answer.texts) == ["Two cats sleeping on a sofa.", "", "Snow falling."]
    assert answer.engine == "gloss"
    assert [(model.id, list(model.languages), model.is_default) for model in listed.models] == [
        ("gloss", ["ru"], True),
        ("fake", ["ru", "de", "en"], False),
    ]
    assert {model.task for model in listed.models} == {common_pb2.TASK_TRANSLATION}


async def test_engine_of_the_request_translates() -> None:
    async with running(engines=["fake"]) as channel:
        answer = await translate(channel, "дом", "лес", engine="fake")
    assert list(answer.texts) == ["[ru>en] дом", "[ru>en] лес"]
    assert answer.engine == "fake"


async def test_same_language_comes_back_untouched() -> None:
    text = "  Any text \x07 🐱\n"
    async with running(engines=["fake"]) as channel:
        answer = await translate(channel, text, source="en", target="en")
    assert list(answer.texts) == [text]
    assert answer.engine == "identity"


@pytest.mark.parametrize(
    ("request_", "field", "message"),
    [
        ({"source": "de", "engine": "gloss"}, "source_language", "accepts ru"),
        ({"target": "fr", "engine": "gloss"}, "target_language", "accepts en"),
        ({"engine": "google"}, "engine", "available: fake, gloss"),
        ({"engine": "google", "source": "en"}, "engine", "available: fake, gloss"),
        ({"source": "haw", "engine": "gloss"}, "source_language", "accepts ru"),
        ({"source": "russian"}, "source_language", "ISO 639-1"),
        ({"source": ""}, "source_language", "ISO 639-1"),
        ({"target": "e\n"}, "target_language", "ISO 639-1"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_bad_requests_say_what_is_accepted(
    two_engines: grpc.aio.Channel, request_: dict[str, str], field: str, message: str
) -> None:
    with pytest.raises(InvalidParameter, match=message) as caught:
        await translate(two_engines, "дом", **request_)
    assert caught.value.field == field


async def test_too_many_or_too_long_texts_are_refused() -> None:
    async with running(engines=["fake"], max_texts=64, max_text_chars=10) as channel:
        with pytest.raises(InvalidParameter, match="at most 64"):
            await translate(channel, *["а"] * 65)
        with pytest.raises(InvalidParameter, match="at most 10"):
            await translate(channel, "а" * 11)
        assert (await translate(channel)).texts == []


async def test_a_full_queue_says_when_to_come_back() -> None:
    import asyncio

    async with running(engines=["fake"], fake_seconds_per_text=0.3, max_workers=1, max_queue=0) as channel:
        answers = await asyncio.gather(*(translate(channel, "дом") for _ in range(3)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, QueueFull)]
    assert len(refused) == 2
    assert all(error.retry_after_s > 0 for error in refused)
