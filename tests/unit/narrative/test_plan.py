"""`narrate plan`: what stays on a GPU and what takes turns."""

import pytest
from typer.testing import CliRunner

from narrative.cli.app import app
from narrative.cli.plan import make_plan
from narrative.errors import InvalidParameter, OutOfMemory
from narrative.profiles import Turn, load_profile


def turn(model: str, weights: int, *, stays: bool = False) -> Turn:
    return Turn(
        stage="any", model=model, weight_bytes=weights, working_bytes=10, story_tflop=6.0, story_reads=30, stays=stays
    )


def test_everything_stays_where_there_is_room() -> None:
    plan = make_plan([turn("a", 30), turn("b", 40)], 90)
    assert [one.model for one in plan.stays] == ["a", "b"]
    assert (plan.swaps, plan.left_bytes) == ((), 0)


def test_most_weights_stay_beside_the_largest_that_swaps() -> None:
    plan = make_plan([turn("small", 5), turn("middle", 30), turn("large", 60), turn("llm", 20, stays=True)], 116)
    assert [one.model for one in plan.stays] == ["small", "llm"]
    assert [one.model for one in plan.swaps] == ["middle", "large"]


def test_what_does_not_fit_by_turns_is_said() -> None:
    with pytest.raises(OutOfMemory, match="20 MiB are missing"):
        make_plan([turn("large", 60 << 20), turn("llm", 10 << 20, stays=True)], (50 << 20) + 20)


@pytest.mark.parametrize(
    ("gpu", "says"), [("20GiB", "by turns"), ("24GiB", "always"), ("48GiB", "always"), ("80GB", "always")]
)
def test_the_single_gpu_profile_has_a_plan(gpu: str, says: str) -> None:
    result = CliRunner().invoke(app, ["plan", "--gpu", gpu], env={"COLUMNS": "160"})
    assert result.exit_code == 0
    assert says in result.stdout
    assert "--gpu-memory-utilization" in result.stdout


def test_a_story_takes_as_long_as_its_work_or_its_reads() -> None:
    model = turn("a", 10**9)
    assert model.story_s(tflop_s=2.0, memory_gb_s=100.0) == pytest.approx(3.0)
    assert model.story_s(tflop_s=2.0, memory_gb_s=5.0) == pytest.approx(6.0)


def test_the_plan_says_how_long_a_story_takes_on_a_faster_gpu() -> None:
    slow, fast = (
        CliRunner().invoke(app, ["plan", "--gpu", "48GiB", "--tflops", speed], env={"COLUMNS": "160"}).stdout
        for speed in ("100", "1000")
    )
    assert "31.2 s" in slow
    assert "3.1 s" in fast


def test_sixteen_gigabytes_will_do_where_the_llm_sleeps() -> None:
    result = CliRunner().invoke(app, ["plan", "--gpu", "16GiB", "--llm-sleeps"], env={"COLUMNS": "160"})
    assert result.exit_code == 0
    said = " ".join(result.stdout.split())
    assert "--enable-sleep-mode --host 127.0.0.1 and VLLM_SERVER_DEV_MODE=1 in its environment, and set" in said
    refused = CliRunner().invoke(app, ["plan", "--gpu", "16GiB"]).exception
    assert isinstance(refused, OutOfMemory)
    assert "with --llm-sleeps they fit" in str(refused)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--gpu", "large"], InvalidParameter),
        (["--gpu", "24GiB", "--profile", "embedded"], InvalidParameter),
        (["--gpu", "8GiB"], OutOfMemory),
    ],
)
def test_what_cannot_be_planned_is_said(arguments: list[str], error: type[Exception]) -> None:
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert isinstance(result.exception, error)


def test_the_profiles_of_the_gpu_tell_everybody_where_residency_is() -> None:
    for name in ("single-gpu", "embedded-turns"):
        profile = load_profile(name)
        environment = profile.environment_for(dict.fromkeys(profile.processes, 4711))
        takers = ("TRANSLATION",) if name == "single-gpu" else ()
        for process in ("ASR", "DIFFUSION", "GATEWAY", *takers):
            assert environment[f"NARRATIVE_{process}__RESIDENCY_TARGET"] == "127.0.0.1:4711"
