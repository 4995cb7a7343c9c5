"""`narrate story --up` that is ended: its job ends with it."""

import asyncio
import errno
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from narrative.cli import main, story
from narrative.cli.client import ApiError, Client

DIGEST = "0" * 64


def ensemble_that_ends(done: list[str]) -> Callable[..., AbstractAsyncContextManager[SimpleNamespace]]:
    """In place of ``narrative.cli.ensemble.ensemble``: notes in ``done`` when it has stopped."""

    @asynccontextmanager
    async def ensemble(*_: Any, **__: Any) -> AsyncIterator[SimpleNamespace]:
        try:
            yield SimpleNamespace(url="http://gateway")
        finally:
            done.append("stopped")

    return ensemble


@pytest.mark.parametrize(("status", "said"), [("cancelled", "cancelled\n"), ("succeeded", "")])
def test_a_story_that_cannot_be_received_is_cancelled_before_its_ensemble_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, status: str, said: str
) -> None:
    """One that has ended stays as it is, and nothing is said of it."""
    done: list[str] = []

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def answer(client: Client, method: str, path: str, **_: Any) -> httpx.Response:
        del client
        done.append(f"{method} {path}")
        return httpx.Response(200, json={"status": status})

    recording = tmp_path / "talk.wav"
    recording.touch()
    monkeypatch.setenv("NARRATIVE_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(story, "pull_all", lambda _: None)
    monkeypatch.setattr(story, "ensemble", ensemble_that_ends(done))
    monkeypatch.setattr(story, "send", lambda *_: "7")
    monkeypatch.setattr(story, "receive", refuse)
    monkeypatch.setattr(Client, "request", answer)
    monkeypatch.setattr(sys, "argv", ["narrate", "story", "--up", str(recording), "-o", str(tmp_path / "story")])
    with pytest.raises(SystemExit) as ended:
        main.main()

    assert ended.value.code == 1
    assert done == ["POST /v1/narratives/7/cancel", "stopped"]
    assert capsys.readouterr().err == f"{said}Refused by the system: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("sent", [True, False])
async def test_a_story_that_is_ended_while_it_is_sent_is_cancelled_before_its_ensemble_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sent: bool
) -> None:
    """One that was refused leaves nothing to be cancelled."""
    done: list[str] = []
    sending, go_on = threading.Event(), threading.Event()

    def send(*_: Any) -> str:
        sending.set()
        assert go_on.wait(10)
        if not sent:
            raise ApiError("too long")
        return "7"

    def answer(client: Client, method: str, path: str, **_: Any) -> httpx.Response:
        del client
        done.append(f"{method} {path}")
        return httpx.Response(200, json={"status": "cancelled"})

    monkeypatch.setattr(story, "ensemble", ensemble_that_ends(done))
    monkeypatch.setattr(story, "send", send)
    monkeypatch.setattr(Client, "request", answer)
    telling = asyncio.create_task(story._with_ensemble(tmp_path / "talk.wav", DIGEST, tmp_path, {}, False, ""))
    assert await asyncio.to_thread(sending.wait, 10)
    telling.cancel()
    asyncio.get_running_loop().call_soon(go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await telling

    assert done == ["POST /v1/narratives/7/cancel", "stopped"][not sent :]


async def test_a_recording_that_is_sent_for_too_long_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sending, stopped = threading.Event(), threading.Event()

    @asynccontextmanager
    async def ensemble(*_: Any, **__: Any) -> AsyncIterator[SimpleNamespace]:
        try:
            yield SimpleNamespace(url="http://gateway")
        finally:
            stopped.set()

    def send(*_: Any) -> str:
        sending.set()
        assert stopped.wait(10)
        return "7"

    monkeypatch.setattr(story, "SENDING_TIMEOUT_S", 0.01)
    monkeypatch.setattr(story, "ensemble", ensemble)
    monkeypatch.setattr(story, "send", send)
    telling = asyncio.create_task(story._with_ensemble(tmp_path / "talk.wav", DIGEST, tmp_path, {}, False, ""))
    assert await asyncio.to_thread(sending.wait, 10)
    telling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await telling
    assert stopped.is_set()
