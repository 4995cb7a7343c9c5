"""What a caller of the service is told when the LLM server fails, over real sockets."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from narrative.errors import (
    DeadlineExceeded,
    ModelOutputInvalid,
    NarrativeError,
    QueueFull,
    ResourceExhausted,
    ServiceUnavailable,
)
from narrative.runtime.channel import rpc_errors
from narrative.v1 import prompt_pb2
from services.prompt.engine_openai import OpenAiPromptEngine
from services.prompt.settings import PromptSettings

REQUEST = prompt_pb2.DescribeSpeakerRequest(
    speaker="A", lines=[prompt_pb2.Line(speaker="A", text="A dog on the grass.")], language="en"
)


@asynccontextmanager
async def llm_server(answer: bytes | None) -> AsyncIterator[str]:
    """A server that gives every request the same bytes, or none and leaves it hanging."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            # A connection closed over unread bytes is reset, and the answer may be lost with it.
            sizes = re.findall(rb"(?i)content-length: (\d+)", head)
            await reader.readexactly(int(sizes[0]) if sizes else 0)
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
                await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


def http(status: str, body: Any, *headers: str) -> bytes:
    payload = json.dumps(body).encode()
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(payload)}", *headers]
    return "\r\n".join([*head, "Connection: close", "", ""]).encode() + payload


def completion(text: str) -> bytes:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return http("200 OK", {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})


BUSY = http("429 Too Many Requests", {"error": {"message": "slow down"}}, "Retry-After: 7")
LOADING = http("503 Service Unavailable", {"error": {"message": "loading"}})
BROKEN = http("500 Internal Server Error", {"error": {"message": "boom"}})
UNKNOWN = http("404 Not Found", {"error": {"message": "no such model"}})
REFUSED = http("400 Bad Request", {"error": {"message": "bad schema"}})


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (BUSY, ResourceExhausted, "slow down"),
        (LOADING, ResourceExhausted, "loading"),
        (BROKEN, ServiceUnavailable, "boom"),
        (UNKNOWN, ServiceUnavailable, "no such model"),
        (REFUSED, ModelOutputInvalid, "bad schema"),
        (completion("I would rather not."), ModelOutputInvalid, "twice"),
        (b"nonsense\r\n\r\n", ServiceUnavailable, "cannot be reached"),
        (http("200 OK", {"choices": []}), ModelOutputInvalid, "no answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi", ModelOutputInvalid, "no answer"),
        (http("200 OK", {}).replace(b"{}", b"{["), ModelOutputInvalid, "does not speak the protocol|no answer"),
        (None, DeadlineExceeded, "did not answer within 0.5 s"),
    ],
)
async def test_failures_of_the_llm_server_are_told_apart(
    answer: bytes | None, error: type[NarrativeError], said: str, connect: Any
) -> None:
    async with (
        llm_server(answer) as url,
        connect(llm_url=url, startup_wait_s=0, llm_timeout_s=0.5 if answer is None else 10) as (stub, _),
    ):
        with pytest.raises(error, match=said) as caught, rpc_errors("prompt"):
            await stub.DescribeSpeaker(REQUEST, timeout=20)
    assert type(caught.value) is error
    if answer is BUSY:
        assert caught.value.retry_after_s == 7


async def test_a_server_that_is_not_there_is_named(connect: Any) -> None:
    async with connect(llm_url="http://127.0.0.1:9/v1", startup_wait_s=0) as (stub, _):
        with (
            pytest.raises(ServiceUnavailable, match=r"^the LLM server cannot be reached$"),
            rpc_errors("p"),
        ):
            await stub.DescribeSpeaker(REQUEST, timeout=20)


async def test_the_service_does_not_start_without_its_llm() -> None:
    engine = OpenAiPromptEngine(PromptSettings(llm_url="http://127.0.0.1:9/v1", startup_wait_s=0.3))
    with pytest.raises(ServiceUnavailable, match="did not become ready"):
        await asyncio.to_thread(engine.load)


async def test_one_call_too_many_is_turned_away(connect: Any) -> None:
    async with (
        llm_server(None) as url,
        connect(llm_url=url, startup_wait_s=0, max_workers=1, max_queue=1) as (stub, _),
    ):

        async def ask() -> None:
            with rpc_errors("prompt"):
                await stub.DescribeSpeaker(REQUEST, timeout=60)

        # One works, one waits; whichever comes third is refused, while the other two hang on the LLM.
        done, waiting = await asyncio.wait(
            [asyncio.create_task(ask()) for _ in range(3)], return_when=asyncio.FIRST_COMPLETED
        )
        (refused,) = done
        error = refused.exception()
        assert isinstance(error, QueueFull)
        assert error.retry_after_s > 0
        for call in waiting:
            call.cancel()
        await asyncio.wait(waiting)
