"""The capacity model, on queues that can be worked out by hand."""

import pytest

from benchmarks.capacity import PLANNED_UTILISATION, Ensemble, Stage, arrivals, simulate


def ensemble(replicas: int = 1, **changes: float) -> Ensemble:
    return Ensemble(Stage(1.0), Stage(0.5, slots=3), Stage(2.0, replicas=replicas), ring_s=0.0, **changes)


def test_one_story_waits_for_nobody_but_its_own_pictures() -> None:
    # 1 s of asr, 0.5 s of prompt for all three speakers together, then three pictures one after the other.
    assert simulate(ensemble(), [0.0]) == [pytest.approx(1.0 + 0.5 + 3 * 2.0)]


def test_replicas_draw_at_the_same_time() -> None:
    assert simulate(ensemble(replicas=3), [0.0]) == [pytest.approx(1.0 + 0.5 + 2.0)]


def test_a_story_behind_another_waits_for_the_narrowest_stage() -> None:
    first, second = simulate(ensemble(), [0.0, 0.0])

    assert first == pytest.approx(7.5)
    assert second == pytest.approx(7.5 + 3 * 2.0)


def test_what_runs_at_the_same_time_is_bounded() -> None:
    first, second = simulate(ensemble(narratives=1), [0.0, 0.0])

    assert second == pytest.approx(2 * first)


def test_the_narrowest_stage_bounds_throughput() -> None:
    asked = list(arrivals(1.0, 200.0))
    last_end_s = max(at + took for at, took in zip(asked, simulate(ensemble(), asked), strict=True))

    assert last_end_s == pytest.approx(len(asked) * 3 * 2.0, rel=0.02)


def test_a_plan_leaves_room() -> None:
    planned = ensemble().planned(stories_per_s=1.0)

    assert planned.diffusion.replicas == 9
    assert all(used <= PLANNED_UTILISATION for used in planned.utilisation(1.0).values())
    assert max(simulate(planned, list(arrivals(1.0, 600.0)))) < 20.0
