"""The command line against what people give it: one line that says what was wrong, whatever is in it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from rich.cells import cell_len

from narrative.catalogue import Catalogue
from narrative.cli import main
from narrative.cli.adapter_files import _path
from narrative.cli.client import Client, Event
from narrative.cli.console import PipedConsole, out
from narrative.cli.output import check_file, check_folder, write
from narrative.cli.story import follow
from narrative.errors import InvalidParameter, ServiceUnavailable
from tests.told import told


@pytest.mark.parametrize("name", ["[/x].wav", "[red]a[/].wav", ":b:.wav", "a " * 60 + ".wav"])
def test_names_are_shown_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert told(monkeypatch, capsys, "story", name) == f"Invalid parameter: {name}: no such file\n"


def test_what_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("NARRATIVE_DATA_DIR", str(file / "below"))
    problem = f"{file / 'below'} cannot be written: {file} is no folder"
    assert told(monkeypatch, capsys, "status") == f"no ensemble can run here: NARRATIVE_DATA_DIR: {problem}\n"
    monkeypatch.setattr("narrative.cli.ensemble.pull_all", lambda _: None)
    said = f"Refused by the system: {file / 'below' / 'logs'}: Not a directory\n"
    assert told(monkeypatch, capsys, "up", "--port", "0") == said


def test_where_no_ensemble_runs_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("NARRATIVE_DATA_DIR", str(tmp_path))
    assert told(monkeypatch, capsys, "status") == "no ensemble runs here; start one with `narrate up`\n"
    monkeypatch.setenv("NARRATIVE_DATA_DIR", "/proc/nope")
    assert "NARRATIVE_DATA_DIR: " in (said := told(monkeypatch, capsys, "status"))
    assert "/proc/nope" in said


@pytest.mark.parametrize("command", ["story", "transcribe"])
def test_a_folder_is_no_recording(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    said = f"Invalid parameter: {tmp_path} is a folder; name a recording in it\n"
    assert told(monkeypatch, capsys, command, str(tmp_path)) == said


def test_what_to_draw_must_be_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for prompt in ("", " "):
        assert told(monkeypatch, capsys, "picture", prompt) == (
            "Invalid parameter: the prompt is empty; say what to draw\n"
        )
    assert told(monkeypatch, capsys, "edit", "", "a.png") == (
        "Invalid parameter: the instruction is empty; say what to change\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--url", "http://[::"), "'http://[::' is no URL"),
        (("--url", "elsewhere"), "missing an 'http://'"),
        (("--api-key", "ключ"), "the API key has characters"),
        (("--api-key", "a\nb"), "the API key has characters"),
    ],
)
def test_no_gateway_and_no_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert said in told(monkeypatch, capsys, "gpus", *arguments)


# Stands before the real rich: says that its import has begun in the program that is waited for, and stays there until
# Ctrl-C has come.
_SLOW_RICH = """
import signal, sys, time
if {program!r} in " ".join(sys.orig_argv):
    print("importing", flush=True)
    until_s = time.monotonic() + 20
    while signal.SIGINT not in signal.sigpending() and time.monotonic() < until_s:
        time.sleep(0.01)
sys.path.remove({folder!r})
del sys.modules["rich"]
import rich
"""


@pytest.mark.parametrize(
    ("arguments", "program"),
    [
        (["models", "list"], "narrative.cli.main"),
        (["train", "style"], "services.trainer.cli"),
        (["evaluate", "speech"], "services.trainer.evaluation.cli"),
        (["grid", "scales"], "services.trainer.grid.cli"),
        (["data", "recordings"], "services.trainer.data.cli"),
    ],
)
def test_an_interrupt_while_it_imports_is_quiet(arguments: list[str], program: str, tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text(_SLOW_RICH.format(program=program, folder=str(tmp_path)))
    process = subprocess.Popen(
        [sys.executable, "-m", "narrative.cli.main", *arguments],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)

    _, said = process.communicate(timeout=60)
    assert (said, process.returncode) == ("", 130)


@pytest.mark.parametrize("content", [b"<html>hello</html>", b'{"status": "ok"}', b"[]", b"5", b"\xff"])
def test_what_is_no_gateway_is_said_so(content: bytes) -> None:
    with Client("http://elsewhere") as client:
        client._http = httpx.Client(
            base_url="http://elsewhere", transport=httpx.MockTransport(lambda _: httpx.Response(200, content=content))
        )
        with pytest.raises(ServiceUnavailable, match="what answers at http://elsewhere is no gateway"):
            client.document("GET", "/v1/gpus", "devices")


def test_a_story_that_waits_says_for_what(capsys: pytest.CaptureFixture[str]) -> None:
    class Waiting(Client):
        def events(self, narrative_id: str) -> Iterator[Event]:
            del narrative_id
            for detail in ("asr cannot be reached", "asr cannot be reached", "diffusion cannot be reached"):
                yield Event("waiting", {"detail": detail})
            yield Event("finished", {"status": "succeeded"})

    with Waiting("http://gateway") as client:
        follow(client, "1")
    assert capsys.readouterr().err == "waiting: asr cannot be reached\nwaiting: diffusion cannot be reached\n"


def test_configurations_are_shown_without_what_is_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ("PROMPT__LLM_API_KEY", "TRANSLATION__LLM_API_KEY", "DIFFUSION__OMNI_API_KEY")
    for name in keys:
        monkeypatch.setenv(f"NARRATIVE_{name}", "tell-nobody")
    monkeypatch.setenv("NARRATIVE_DATABASE_URL", "postgresql://somebody:tell-nobody@database/narratives")
    monkeypatch.setattr(sys, "argv", ["narrate", "config", "--changed"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert shown.count("•••") == len(keys) + 1
    assert "tell" not in shown
    assert "postgresql://somebody:•••@database/narratives" in shown


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that goes well writes to standard output."""
    monkeypatch.setattr(sys, "argv", ["narrate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert not ended.value.code
    return capsys.readouterr().out


def test_what_follows_from_the_data_folder_is_a_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("NARRATIVE_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("NARRATIVE_DATABASE_URL", raising=False)
    monkeypatch.setattr(out, "_force_terminal", False)

    rows = shown(monkeypatch, capsys, "config", "gateway")
    assert re.search(rf"GATEWAY__DATABASE_URL +│ sqlite:///{tmp_path}/narratives.db +│ default", rows)
    assert re.search(rf"GATEWAY__OBJECT_STORE_URL +│ {tmp_path}/objects +│ default", rows)
    assert "URL" not in shown(monkeypatch, capsys, "config", "gateway", "--changed")

    monkeypatch.setenv("NARRATIVE_DATABASE_URL", "sqlite:///there.db")
    changed = shown(monkeypatch, capsys, "config", "gateway", "--changed")
    assert re.search(r"GATEWAY__DATABASE_URL +│ sqlite:///there.db +│ environment", changed)


@pytest.mark.parametrize("width", [80, 120, 0], ids=["narrow", "wide", "pipe"])
def test_names_in_tables_are_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setenv("NARRATIVE_TRANSLATION__MAX_QUEUE", "7")
    monkeypatch.setattr(out, "_force_terminal", bool(width))
    monkeypatch.setattr(out, "width", width or 80)

    settings = shown(monkeypatch, capsys, "config", "translation")
    models = shown(monkeypatch, capsys, "models", "list")

    assert "…" not in settings + models
    assert not width or max(map(cell_len, (settings + models).splitlines())) <= width
    rows = {name: line for line in settings.splitlines() for name in re.findall(r"NARRATIVE_TRANSLATION__\w+", line)}
    assert {"NARRATIVE_TRANSLATION__TRITON_STARTUP_WAIT_S", "NARRATIVE_TRANSLATION__ENGINES"} <= rows.keys()
    assert re.search(r"│ 7 +│ environment", rows["NARRATIVE_TRANSLATION__MAX_QUEUE"])
    assert re.search(r"│ default", rows["NARRATIVE_TRANSLATION__TRITON_STARTUP_WAIT_S"])
    for entry in Catalogue():
        assert re.search(rf"\b{re.escape(entry.id)}\b", models)
    if not width:
        # A row is a line, for grep and its like.
        assert re.search(r"whisper-large-v3 .* transcription .* hub Systran/faster-whisper-large-v3 ", models)
        assert re.search(r"storybook .* text-to-image .* this repository ", models)
        assert "Calls that may wait for a worker" in rows["NARRATIVE_TRANSLATION__MAX_QUEUE"]


@pytest.mark.parametrize("arguments", [("models", "list"), ("status",), ("story", "nowhere.wav")])
def test_where_nobody_reads_it_ends_quietly(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """`narrate models list | head`, where both pipes are closed and where only that of the results is."""
    for errors_too in (False, True):
        reader, writer = os.pipe()
        os.close(reader)
        ended = subprocess.run(
            [sys.executable, "-m", "narrative.cli.main", *arguments],
            env=os.environ | {"NARRATIVE_DATA_DIR": str(tmp_path)},
            stdout=writer,
            stderr=writer if errors_too else subprocess.PIPE,
            check=False,
            timeout=60,
        )
        os.close(writer)
        assert ended.returncode == 1
        assert ended.stderr is None or b"Traceback" not in ended.stderr
        assert ended.stderr is None or b"ignored" not in ended.stderr


def test_a_closed_pipe_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        console = PipedConsole(file=pipe)
        with pytest.raises(BrokenPipeError):
            console.print("one")
        console.print("two")


def test_an_adapter_is_no_path() -> None:
    assert (
        httpx.URL("http://gateway" + _path("../datasets/x?a#b")).raw_path == b"/v1/adapters/..%2Fdatasets%2Fx%3Fa%23b"
    )
    with pytest.raises(InvalidParameter, match="name the adapter"):
        _path("")


def test_text_that_is_none_is_named() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(InvalidParameter, match=r"udcff.*no text in UTF-8"):
        client.request("POST", "/v1/images/edits", data={"prompt": "\udcff"})


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    check_file(file)
    check_file(tmp_path / "new" / "folder" / "a.png")
    check_folder(tmp_path / "new")
    assert sorted(tmp_path.iterdir()) == [file]
    with pytest.raises(InvalidParameter, match="is a folder; name a file"):
        check_file(tmp_path)
    for check in (check_file, check_folder):
        with pytest.raises(InvalidParameter, match=r"file is no folder"):
            check(file / "a")
    with pytest.raises(InvalidParameter, match="is no folder"):
        check_folder(file)

    write(tmp_path / "new" / "a.png", b"png")
    assert (tmp_path / "new" / "a.png").read_bytes() == b"png"
