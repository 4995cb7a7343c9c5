"""`narrate story`: what is asked of the gateway, and what is written."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from narrative.cli import main
from narrative.cli.client import ApiError, Client
from narrative.cli.story import write_story
from narrative.errors import ServiceUnavailable


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ((), {}),
        (("--model", "sdxl", "--asr-model", "my-voice"), {"model": "sdxl", "asr_model": "my-voice"}),
        (("--adapter", "seal:0.5"), {"adapters": [{"name": "seal", "weight": 0.5}]}),
    ],
)
def test_models_and_adapters_are_asked_for_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], asked: dict[str, Any]
) -> None:
    sent: list[dict[str, Any]] = []

    def refuse(client: Client, audio: Path, options: dict[str, Any]) -> dict[str, Any]:
        del client, audio
        sent.append(options)
        raise ApiError("enough was seen")

    recording = tmp_path / "talk.wav"
    recording.touch()
    monkeypatch.setattr(Client, "create_narrative", refuse)
    where = ("--output", str(tmp_path / "story"), "--url", "http://gateway")
    monkeypatch.setattr(sys, "argv", ["narrate", "story", str(recording), *where, *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    assert sent == [{"num_images": 1, **asked}]


class Gateway(Client):
    """A client of a gateway that has one narrative."""

    def __init__(self, pictures: int, page: str, audio: list[bytes], filename: str = "talk.M4A") -> None:
        super().__init__("http://gateway")
        images = [{"index": index} for index in range(pictures)]
        told = {"filename": filename, "speakers": [{"speaker": "SPEAKER_00", "images": images}]}

        def answer(request: httpx.Request) -> httpx.Response:
            match request.url.path.rpartition("/")[2]:
                case "story.json":
                    return httpx.Response(200, json=told)
                case "story.html":
                    return httpx.Response(200, text=page)
                case "audio":
                    return httpx.Response(200, content=self._pieces(audio))
                case index:
                    return httpx.Response(200, content=f"picture {index} of {pictures}".encode())

        self._http = httpx.Client(base_url=self.url, transport=httpx.MockTransport(answer))

    @staticmethod
    def _pieces(audio: list[bytes]) -> Iterator[bytes]:
        for piece in audio:
            if not piece:
                raise httpx.ReadError("the line broke")
            yield piece


LINKED = '<p>src="audio"</p><audio controls preload="metadata" src="audio"></audio>'


def test_a_recording_that_the_page_links_lies_beside_it(tmp_path: Path) -> None:
    write_story(Gateway(1, LINKED, [b"one ", b"two"]), "1", tmp_path)

    assert (tmp_path / "audio.m4a").read_bytes() == b"one two"
    page = (tmp_path / "story.html").read_text()
    assert page == '<p>src="audio"</p><audio controls preload="metadata" src="audio.m4a"></audio>'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "audio.m4a", "story.html", "story.json"]


def test_half_a_recording_is_none(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match="the line broke"):
        write_story(Gateway(1, LINKED, [b"one ", b""]), "1", tmp_path)

    assert not list(tmp_path.glob("audio*"))


def test_a_recording_inside_the_page_is_not_fetched(tmp_path: Path) -> None:
    page = '<audio controls src="data:audio/mp4;base64,AAAA"></audio>'
    write_story(Gateway(1, page, [b""]), "1", tmp_path)

    assert (tmp_path / "story.html").read_text() == page
    assert json.loads((tmp_path / "story.json").read_text())["speakers"][0]["images"] == [{"index": 0, "file": "0.png"}]
