"""The try-out page and the story's page in a browser, where there is one."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from narrative.cli.client import Client
from narrative.cli.story import make_story
from narrative.hashing import sha256_of
from tests.integration.gateway.conftest import serving, wav
from tests.integration.gateway.fakes import Ensemble

# Debian's name and Google's.
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

_PLAYER = """new Promise(done => {
  const player = document.querySelector("audio");
  if (!player) return done("no player");
  const say = () => done(player.error ? "silent" : player.duration > 0 ? "plays" : "");
  if (player.error || player.duration > 0) return say();
  player.onerror = player.onloadedmetadata = say;
  player.load();
})"""


class Browser:
    """Chromium, spoken to over two pipes: JSON messages of its DevTools protocol, each ended by a zero byte."""

    def __init__(self, answers: asyncio.StreamReader, orders: int) -> None:
        self._answers, self._orders, self._numbers = answers, orders, itertools.count(1)

    async def ask(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        order = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._orders, json.dumps(order).encode() + b"\0")
        while True:
            answer = json.loads((await self._answers.readuntil(b"\0"))[:-1])
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    async def evaluate(self, session: str, script: str) -> Any:
        options = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = await self.ask("Runtime.evaluate", session, expression=script, **options)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def page(self, address: str) -> str:
        """A session with the page at an address that begins so, as soon as there is one and it is loaded."""
        async with asyncio.timeout(20):
            while True:
                for target in (await self.ask("Target.getTargets"))["targetInfos"]:
                    if target["type"] == "page" and target["url"].startswith(address):
                        attached = await self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
                        session: str = attached["sessionId"]
                        loaded = f"document.readyState === 'complete' && location.href.startsWith('{address}')"
                        while not await self.evaluate(session, loaded):
                            await asyncio.sleep(0.05)
                        return session
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def browsing(profile: Path) -> AsyncIterator[Browser]:
    (its_orders, our_orders), (our_answers, its_answers) = os.pipe(), os.pipe()
    options = f"--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir={profile}"
    pipes = f"--remote-debugging-pipe 3<&{its_orders} 4>&{its_answers}"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f"exec {CHROMIUM} {options} about:blank {pipes}"),
        pass_fds=(its_orders, its_answers),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    os.close(its_orders)
    os.close(its_answers)
    answers = asyncio.StreamReader(limit=1 << 24)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(answers), os.fdopen(our_answers, "rb")
    )
    browser = Browser(answers, our_orders)
    try:
        yield browser
        await browser.ask("Browser.close")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        transport.close()
        os.close(our_orders)


pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.mark.parametrize("inline_bytes", [0, 1 << 25], ids=["linked", "inline"])
@pytest.mark.parametrize("key", ["", "open-sesame"])
async def test_the_story_that_it_opens_plays(fakes: Ensemble, tmp_path: Path, key: str, inline_bytes: int) -> None:
    hashes = [hashlib.sha256(key.encode()).hexdigest()] if key else []
    async with (
        serving(
            fakes,
            tmp_path,
            database_url=f"sqlite:///{tmp_path / 'narratives.db'}",
            api_key_hashes=hashes,
            max_inline_audio_bytes=inline_bytes,
        ) as api,
        browsing(tmp_path / "browser") as browser,
    ):
        api.http.headers.update({"Authorization": f"Bearer {key}"} if key else {})
        narrative_id = await api.create()
        assert (await api.finished(narrative_id))["status"] == "succeeded"
        await browser.ask("Target.createTarget", url=f"{api.http.base_url}/")
        page = await browser.page(str(api.http.base_url))

        await browser.evaluate(page, f"narrative = {{ id: '{narrative_id}' }}; $('key').value = '{key}'")
        await browser.evaluate(page, "$('open').click()")

        story = await browser.page("blob:" if key else f"{api.http.base_url}/v1/narratives/{narrative_id}/story.html")
        assert await browser.evaluate(story, _PLAYER) == "plays"


async def test_the_story_that_the_command_line_writes_plays(fakes: Ensemble, tmp_path: Path) -> None:
    recording, folder = tmp_path / "talk.wav", tmp_path / "story"
    recording.write_bytes(wav())

    def tell(url: str) -> None:
        with Client(url) as client:
            make_story(client, recording, sha256_of(recording), folder, {}, stages=False)

    database = f"sqlite:///{tmp_path / 'narratives.db'}"
    async with serving(fakes, tmp_path / "data", database_url=database, max_inline_audio_bytes=0) as api:
        await asyncio.to_thread(tell, str(api.http.base_url))

    assert (folder / "audio.wav").read_bytes() == recording.read_bytes()
    async with browsing(tmp_path / "browser") as browser:
        await browser.ask("Target.createTarget", url=(folder / "story.html").as_uri())
        assert await browser.evaluate(await browser.page("file:"), _PLAYER) == "plays"
