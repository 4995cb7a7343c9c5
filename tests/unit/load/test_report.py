"""The report of a load test, from samples made by hand."""

from typing import Any

from tests.load.report import Run, markdown, percentile, svg


def sample(arrived_s: float, seconds: float, outcome: str = "ok", kind: str = "story") -> dict[str, Any]:
    return {"kind": kind, "arrived_s": arrived_s, "seconds": seconds, "outcome": outcome}


def test_percentiles_are_nearest_ranks() -> None:
    hundred = [float(number) for number in range(1, 101)]

    assert [percentile(hundred, at) for at in (50, 95, 99)] == [50.0, 95.0, 99.0]
    assert percentile([7.0], 99) == 7.0


def test_a_run_that_keeps_up() -> None:
    run = Run(1.0, 10.0, [sample(number, 1.0) for number in range(10)])

    assert run.keeps_up
    assert run.throughput() == run.throughput("story") == 1.0


def test_a_run_whose_requests_pile_up_does_not_keep_up() -> None:
    late = [sample(number, 1.0 + number) for number in range(10)]

    assert not Run(1.0, 10.0, late).keeps_up
    assert not Run(1.0, 10.0, [*late, sample(17.0, 1.0, kind="first picture")]).keeps_up


def test_refused_requests_are_not_failures() -> None:
    run = Run(1.0, 10.0, [sample(0, 1.0), sample(1, 0.1, "refused"), sample(2, 5.0, "failed")])

    text = markdown("Load", [run], "plot.svg")

    assert not run.keeps_up
    assert "| 1 | story | 1 | 1 | 1 |" in text
    assert "1 requests were told to come back later" in text


def test_stages_are_differences_of_counters() -> None:
    name = "asr narrative_request_duration_seconds"
    before = {f"{name}_count Transcribe": 10.0, f"{name}_sum Transcribe": 5.0}
    after = {f"{name}_count Transcribe": 14.0, f"{name}_sum Transcribe": 9.0}
    run = Run(1.0, 10.0, [sample(0, 1.0)], before, after, {"asr": 3.0})

    assert run.stages() == {"asr Transcribe": (4, 1.0, 3.0)}


def test_the_plot_is_a_picture() -> None:
    runs = [
        Run(rate, 10.0, [sample(number, rate, kind=kind) for number in range(5) for kind in ("story", "picture")])
        for rate in (1.0, 2.0)
    ]

    assert svg(runs).startswith("<svg")
    # Median and 95th percentile of two kinds.
    assert svg(runs).count("<polyline") == 4
