"""`narrate story`: what is asked of the gateway, and what is written."""

import errno
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import pytest

from narrative.cli import main, story
from narrative.cli.client import ApiError, Client
from narrative.cli.story_folder import default_folder, own_folder, write_story
from narrative.errors import ServiceUnavailable
from narrative.hashing import sha256_of


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ((), {}),
        (("--model", "sdxl", "--asr-model", "my-voice"), {"model": "sdxl", "asr_model": "my-voice"}),
        (("--scene-model", "storyteller"), {"scene_model": "storyteller"}),
        (("--adapter", "seal:0.5"), {"adapters": [{"name": "seal", "weight": 0.5}]}),
        (("--min-speakers", "2", "--max-speakers", "4"), {"min_speakers": 2, "max_speakers": 4}),
        (("--words", "--temperature", "0"), {"word_timestamps": True, "temperature": 0.0}),
    ],
)
def test_what_is_asked_for_is_sent(
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


DIGEST = "0" * 64
LINKED = '<p>src="audio"</p><audio controls preload="metadata" src="audio"></audio>'
WHOLE = '<audio controls src="data:audio/mp4;base64,AAAA"></audio>'


def test_a_recording_that_the_page_links_lies_beside_it(tmp_path: Path) -> None:
    write_story(Gateway(1, LINKED, [b"one ", b"two"]), "1", tmp_path, DIGEST)

    assert (tmp_path / "audio.m4a").read_bytes() == b"one two"
    page = (tmp_path / "story.html").read_text()
    assert page == '<p>src="audio"</p><audio controls preload="metadata" src="audio.m4a"></audio>'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "audio.m4a", "story.html", "story.json"]


def test_half_a_recording_is_none(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match="the line broke"):
        write_story(Gateway(1, LINKED, [b"one ", b""]), "1", tmp_path, DIGEST)

    assert not list(tmp_path.glob("audio*"))


def test_a_recording_inside_the_page_is_not_fetched(tmp_path: Path) -> None:
    write_story(Gateway(1, WHOLE, [b""]), "1", tmp_path, DIGEST)

    assert (tmp_path / "story.html").read_text() == WHOLE
    assert json.loads((tmp_path / "story.json").read_text())["speakers"][0]["images"] == [{"index": 0, "file": "0.png"}]


def test_nothing_is_left_of_the_story_before(tmp_path: Path) -> None:
    for name in ("9.png", "audio.mp3", "notes.txt"):
        (tmp_path / name).write_text("mine")
    write_story(Gateway(4, LINKED, [b"sound"], "talk.mp3"), "1", tmp_path, DIGEST)
    assert (tmp_path / "audio.mp3").read_text() == "mine"
    assert (tmp_path / "audio-2.mp3").read_text() == "sound"

    write_story(Gateway(2, WHOLE, []), "2", tmp_path, DIGEST)

    there = {path.name: path.read_text() for path in tmp_path.iterdir() if path.suffix != ".json"}
    assert there == {
        "0.png": "picture 0 of 2",
        "1.png": "picture 1 of 2",
        "9.png": "mine",
        "audio.mp3": "mine",
        "notes.txt": "mine",
        "story.html": WHOLE,
    }


@pytest.mark.parametrize(
    "content",
    [
        '{"speakers": [{"images": [{"file": "../kept.png"}, {"file": "notes.txt"}]}], "audio_file": "/etc"}',
        "[]",
        "{",
        "5",
    ],
)
def test_a_story_that_is_none_leads_nowhere(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "story"
    folder.mkdir()
    (tmp_path / "kept.png").touch()
    (folder / "notes.txt").touch()
    (folder / "story.json").write_text(content)

    write_story(Gateway(1, WHOLE, []), "1", folder, DIGEST)

    assert (tmp_path / "kept.png").exists()
    assert (folder / "notes.txt").exists()


def test_a_story_is_there_when_all_of_it_is(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable):
        write_story(Gateway(1, LINKED, [b""]), "1", tmp_path, DIGEST)

    assert not (tmp_path / "story.json").exists()


def test_another_recording_of_the_same_name_gets_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = Path("talk.m4a"), Path("talk.mp3")
    first.write_text("one")
    second.write_text("two")
    for file, folder in ((first, "talk"), (second, "talk-2"), (first, "talk"), (second, "talk-2")):
        assert default_folder(file, sha256_of(file)) == Path("stories") / folder
        write_story(Gateway(1, WHOLE, [], file.name), "1", Path("stories") / folder, sha256_of(file))

    # A story of an earlier version tells only the name.
    told = Path("stories/talk/story.json")
    Path("talk.wav").write_text("three")
    told.write_text(json.dumps({"filename": "talk.m4a", "speakers": []}))
    assert default_folder(first, sha256_of(first)) == Path("stories/talk")
    third = Path("talk.wav")
    assert default_folder(third, sha256_of(third)) == Path("stories/talk-3")


def test_a_recording_of_the_same_name_that_is_told_meanwhile_keeps_its_story(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def tell(recording: str) -> None:
        monkeypatch.setattr(sys, "argv", ["narrate", "story", recording])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert not ended.value.code

    def take(client: Client, audio: Path, options: dict[str, Any]) -> dict[str, Any]:
        del client, options
        if audio.name == "talk.m4a":
            tell("talk.mp3")
        return {"id": "1"}

    monkeypatch.chdir(tmp_path)
    for name in ("talk.m4a", "talk.mp3"):
        Path(name).write_text(name)
    monkeypatch.setattr(Client, "create_narrative", take)
    monkeypatch.setattr(story, "follow", lambda *_: None)
    monkeypatch.setattr(story, "show_summary", lambda *_: None)
    monkeypatch.setattr(story, "open_client", lambda *_: Gateway(1, WHOLE, []))
    tell("talk.m4a")

    assert capsys.readouterr().out == "story: stories/talk/story.html\nstory: stories/talk-2/story.html\n"
    for folder, name in (("talk", "talk.mp3"), ("talk-2", "talk.m4a")):
        written = json.loads(Path("stories", folder, "story.json").read_text())
        assert written["recording_sha256"] == sha256_of(Path(name))


def test_a_folder_is_one_recording_s_while_its_story_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = Path("talk.m4a"), Path("talk.mp3")

    def tell(file: Path, sha256: str) -> Path:
        with own_folder(file, sha256) as folder:
            write_story(Gateway(1, WHOLE, [], file.name), "1", folder, sha256)
            return folder

    with ThreadPoolExecutor() as pool:
        with own_folder(first, "1" * 64) as folder:
            others = [pool.submit(tell, second, "2" * 64), pool.submit(tell, first, "1" * 64)]
            # They would be done by then.
            assert not wait(others, timeout=0.5).done
            write_story(Gateway(1, WHOLE, [], first.name), "1", folder, "1" * 64)
        assert [folder, *(other.result(10) for other in others)] == [
            Path("stories/talk"),
            Path("stories/talk-2"),
            Path("stories/talk"),
        ]


def test_a_file_system_without_locks_has_stories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fcntl.flock", refuse)
    with own_folder(Path("talk.wav"), DIGEST) as folder:
        assert folder.is_dir()


def test_a_recording_that_is_moved_meanwhile_has_its_story(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recording = tmp_path / "talk.m4a"
    recording.write_text("one")
    digest = sha256_of(recording)
    gateway = Gateway(1, WHOLE, [])

    def take(client: Client, audio: Path, options: dict[str, Any]) -> dict[str, Any]:
        del client, options
        audio.unlink()
        return {"id": "1"}

    monkeypatch.setattr(Client, "create_narrative", take)
    monkeypatch.setattr(story, "follow", lambda *_: None)
    monkeypatch.setattr(story, "show_summary", lambda *_: None)
    monkeypatch.setattr(story, "open_client", lambda *_: gateway)
    monkeypatch.setattr(sys, "argv", ["narrate", "story", str(recording), "--output", str(tmp_path / "story")])
    with pytest.raises(SystemExit) as ended:
        main.main()

    assert not ended.value.code
    assert json.loads((tmp_path / "story/story.json").read_text())["recording_sha256"] == digest
