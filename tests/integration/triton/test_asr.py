"""The speech service on a real Triton server, with Whisper base behind it."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from narrative.errors import AudioUndecodable, Cancelled, InvalidParameter, ServiceUnavailable
from services.asr.__main__ import build_engine
from services.asr.engine import AsrEngine, Event, Progress, Segment, Summary, TranscribeOptions
from services.asr.settings import AsrSettings
from tests.integration.triton.triton_server import TritonServer

pytestmark = pytest.mark.triton


def engine_on(server: TritonServer) -> AsrEngine:
    engine = build_engine(AsrSettings(engine="triton", triton_url=server.url))
    engine.load()
    return engine


@pytest.fixture(scope="module")
def engine(triton: TritonServer) -> Iterator[AsrEngine]:
    engine = engine_on(triton)
    yield engine
    engine.close()
    triton.unload("asr")


@pytest.fixture(scope="module")
def in_process(models_dir: Path) -> Iterator[AsrEngine]:
    engine = build_engine(AsrSettings())
    engine.load()
    yield engine
    engine.close()


def transcribe(engine: AsrEngine, path: Path, **options: object) -> list[Event]:
    return list(engine.transcribe(path, TranscribeOptions(**options), threading.Event()))  # type: ignore[arg-type]


@pytest.mark.parametrize("recording", ["librivox", "mixed3"])
def test_segments_are_those_of_the_engine_in_process(
    engine: AsrEngine, in_process: AsrEngine, speech: Path, recording: str
) -> None:
    path = speech / f"{recording}.flac"

    events = transcribe(engine, path, word_timestamps=True)

    assert events == transcribe(in_process, path, word_timestamps=True)
    assert any(isinstance(event, Segment) and event.words for event in events)
    assert isinstance(events[-1], Summary)


def test_models_and_languages_are_told_without_loading_them(engine: AsrEngine, in_process: AsrEngine) -> None:
    assert engine.models() == in_process.models()
    with pytest.raises(InvalidParameter, match="no language this model understands"):
        engine.check(TranscribeOptions(language="xx"))


def test_progress_comes_while_it_works(engine: AsrEngine, speech: Path) -> None:
    events = engine.transcribe(speech / "mixed3.flac", TranscribeOptions(), threading.Event())

    first = next(events)
    began_s = time.monotonic()
    rest = list(events)

    assert first == Progress("decoding", 0.0)
    fractions = [event.fraction for event in [first, *rest] if isinstance(event, Progress)]
    assert fractions == sorted(fractions)
    # The first came long before the last.
    assert time.monotonic() - began_s > 0.5


def test_what_cannot_be_transcribed_is_refused_as_in_process(engine: AsrEngine, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no sound in here")

    with pytest.raises(AudioUndecodable, match=r"notes\.m4a"):
        transcribe(engine, text, filename="notes.m4a")


def test_a_caller_who_gives_up_frees_the_server(engine: AsrEngine, triton: TritonServer, speech: Path) -> None:
    gave_up = threading.Event()
    events = engine.transcribe(speech / "mixed3.flac", TranscribeOptions(), gave_up)
    assert isinstance(next(events), Progress)

    gave_up.set()
    with pytest.raises(Cancelled):
        list(events)

    # It would be kept loaded by a recording that is still being worked on.
    triton.unload("asr")
    assert isinstance(transcribe(engine, speech / "librivox.flac", language="en")[-1], Summary)


def test_a_server_that_dies_in_the_middle_is_an_error_at_once(own_triton: TritonServer, speech: Path) -> None:
    own_triton.start()
    engine = engine_on(own_triton)
    events = engine.transcribe(speech / "mixed3.flac", TranscribeOptions(), threading.Event())
    assert isinstance(next(events), Progress)

    own_triton.kill()

    with pytest.raises(ServiceUnavailable, match="Triton cannot be reached"):
        list(events)
    engine.close()
