"""The LLM engine against an HTTP server that answers what each test tells it to, and against a dead port."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from narrative.errors import Cancelled, DeadlineExceeded, InvalidInput, ModelOutputInvalid, ServiceUnavailable
from services.translation.engine_llm import LlmEngine
from services.translation.settings import TranslationSettings

Answer = Callable[[dict[str, Any]], tuple[int, str]]


@contextmanager
def llm(answer: Answer, **settings: object) -> Iterator[LlmEngine]:
    """An engine whose server answers with what ``answer`` makes of the request: a status and the message content."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, content = answer(request)
            message = {"role": "assistant", "content": content}
            body: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
            body["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
            data = json.dumps(body if status == 200 else {"error": {"message": content}}).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    engine = LlmEngine(TranslationSettings(llm_base_url=url, **settings))
    engine.load()
    try:
        yield engine
    finally:
        engine.close()
        server.shutdown()
        server.server_close()
        thread.join()


def upper(request: dict[str, Any]) -> tuple[int, str]:
    return 200, json.dumps({"translation": request["messages"][-1]["content"].upper()})


def test_texts_are_translated_in_order_with_a_schema_and_no_sampling() -> None:
    seen: list[dict[str, Any]] = []

    def answer(request: dict[str, Any]) -> tuple[int, str]:
        seen.append(request)
        return upper(request)

    texts = [f"text {n}" for n in range(20)]
    with llm(answer) as engine:
        assert engine.translate(texts, "ru", "en") == [text.upper() for text in texts]
    assert all(request["temperature"] == 0 for request in seen)
    assert all(request["response_format"]["type"] == "json_schema" for request in seen)
    assert "Russian" in seen[0]["messages"][0]["content"]


def test_broken_answer_is_asked_for_once_more() -> None:
    answers = iter(["no JSON at all", '{"translation": "a cat"}'])
    with llm(lambda _: (200, next(answers))) as engine:
        assert engine.translate(["кот"], "ru", "en") == ["a cat"]


@pytest.mark.parametrize("content", ["", "no JSON", "[]", '{"other": 1}', '{"translation": 5}', '{"translation": " "}'])
def test_answer_broken_twice_is_an_error(content: str) -> None:
    with llm(lambda _: (200, content)) as engine, pytest.raises(ModelOutputInvalid, match="no translation"):
        engine.translate(["кот"], "ru", "en")


@pytest.mark.parametrize(
    ("status", "error"), [(400, InvalidInput), (401, ServiceUnavailable), (500, ServiceUnavailable)]
)
def test_refusals_become_errors_of_the_ensemble(status: int, error: type[Exception]) -> None:
    with llm(lambda _: (status, "context too long")) as engine, pytest.raises(error):
        engine.translate(["кот"], "ru", "en")


def test_slow_server_runs_into_the_limit() -> None:
    release = threading.Event()

    def answer(request: dict[str, Any]) -> tuple[int, str]:
        release.wait(30)
        return upper(request)

    with llm(answer, llm_timeout_s=0.2) as engine:
        try:
            with pytest.raises(DeadlineExceeded, match=r"0\.2 s"):
                engine.translate(["кот"], "ru", "en")
        finally:
            release.set()


def test_nobody_waits_for_an_answer_that_nobody_wants() -> None:
    release, gone = threading.Event(), threading.Event()

    def answer(request: dict[str, Any]) -> tuple[int, str]:
        gone.set()
        release.wait(30)
        return upper(request)

    with llm(answer) as engine:
        try:
            with pytest.raises(Cancelled):
                engine.translate(["кот"], "ru", "en", gone)
        finally:
            release.set()


def test_dead_server_is_unavailable() -> None:
    engine = LlmEngine(TranslationSettings(llm_base_url="http://127.0.0.1:9/v1"))
    engine.load()
    try:
        with pytest.raises(ServiceUnavailable, match="127"):
            engine.translate(["кот"], "ru", "en")
    finally:
        engine.close()
