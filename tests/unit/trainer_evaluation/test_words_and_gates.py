"""Error rates, requirements and the command line around them."""

import json
import subprocess
import sys

import pytest

from narrative.errors import InvalidInput, InvalidParameter
from services.trainer.evaluation import cli, gate
from services.trainer.evaluation.report import Report
from services.trainer.evaluation.words import error_rates


def test_rates_count_errors_over_all_references():
    rates = error_rates(["раз два три", "четыре"], ["раз два", "пять"])
    assert rates.wer == pytest.approx(2 / 4)
    assert rates.cer == pytest.approx((4 + 5) / (11 + 6))


def test_case_punctuation_and_numerals_are_no_errors():
    assert error_rates(["Ёлок было двадцать пять!"], ["елок было 25"]) == error_rates(["a"], ["a"])


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        (["a"], [], "1 references and 0 hypotheses"),
        ([], [], "no texts to compare"),
        (["a", "..."], ["a", "b"], "reference 2 has no words"),
    ],
)
def test_what_cannot_be_compared_is_refused(references, hypotheses, message):
    with pytest.raises(InvalidInput, match=message):
        error_rates(references, hypotheses)


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        ("wer<=0.2", 0.2, True),
        ("wer<0.2", 0.2, False),
        (" wer > .5 ", 0.6, True),
        ("wer>=1", 0.99, False),
        ("wer<=1", float("nan"), False),
    ],
)
def test_requirements(text, value, met):
    (requirement,) = gate.parse([text], ["wer"])
    assert requirement.is_met({"wer": value}) is met
    assert bool(gate.unmet([requirement], {"wer": value})) is not met


def test_a_name_with_a_dash_is_the_same_score():
    assert gate.parse(["clip-i>=0.8"], ["clip_i"])[0].score == "clip_i"


@pytest.mark.parametrize("text", ["wer", "wer=0.2", "wer<=", "wer<=low", "cer<=1", ""])
def test_a_requirement_that_means_nothing_is_refused(text):
    with pytest.raises(InvalidParameter):
        gate.parse([text], ["wer"])


def test_a_report_is_written_whole(tmp_path):
    Report({"wer": 0.5}, {"texts": 2}).write(tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text()) == {"scores": {"wer": 0.5}, "about": {"texts": 2}}
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def evaluate(*arguments):
    command = [sys.executable, "-m", "narrative.cli.main", "evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def evaluate_here(monkeypatch, capsys, *arguments):
    """Exit status, output and errors of the command in this process, which has loaded what it needs already."""
    monkeypatch.setattr(sys, "argv", ["narrate evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, *capsys.readouterr()


def test_the_command_measures_gates_and_refuses(tmp_path, monkeypatch, capsys):
    said, heard = tmp_path / "said.txt", tmp_path / "heard.txt"
    said.write_text("раз два\nтри четыре\n", encoding="utf-8")
    heard.write_text("раз два\nтри пять\n", encoding="utf-8")
    files = ("speech", "--references", said, "--hypotheses", heard)
    done = evaluate(*files, "--require", "wer<=0.3", "--output", tmp_path / "scores.json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scores"]["wer"] == 0.25
    assert (tmp_path / "scores.json").read_text() == done.stdout
    assert "lower" in done.stderr

    status, written, told = evaluate_here(monkeypatch, capsys, *files, "--require", "wer<=0.2")
    assert status == 3
    assert json.loads(written)["scores"]["wer"] == 0.25
    assert "wer<=0.2 (measured 0.25)" in told

    heard.write_text("раз два\n", encoding="utf-8")
    status, written, told = evaluate_here(monkeypatch, capsys, *files)
    assert (status, written) == (1, "")
    assert "has 2 lines and" in " ".join(told.split())
    assert "Traceback" not in told
