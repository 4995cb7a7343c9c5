"""The capacity model, on queues that can be worked out by hand."""

import pytest

from benchmarks.capacity import PLANNED_UTILISATION, Ensemble, Stage, simulate
from tests.load.arrivals import arrivals

STORY = (0.0, "story")


def ensemble(replicas: int = 1, **changes: float) -> Ensemble:
    return Ensemble(Stage(1.0), Stage(0.5, slots=3), Stage(2.0, replicas=replicas), ring_s=0.0, **changes)


def test_one_story_waits_for_nobody_but_its_own_pictures() -> None:
    # 1 s of asr, 0.5 s of prompt for all three speakers together, then three pictures one after the other.
    assert simulate(ensemble(), [STORY]) == [pytest.approx(1.0 + 0.5 + 3 * 2.0)]


def test_replicas_draw_at_the_same_time() -> None:
    assert simulate(ensemble(replicas=3), [STORY]) == [pytest.approx(1.0 + 0.5 + 2.0)]


def test_a_story_behind_another_waits_for_the_narrowest_stage() -> None:
    first, second = simulate(ensemble(), [STORY, STORY])

    assert first == pytest.approx(7.5)
    assert second == pytest.approx(7.5 + 3 * 2.0)


def test_what_runs_at_the_same_time_is_bounded() -> None:
    first, second = simulate(ensemble(narratives=1), [STORY, STORY])

    assert second == pytest.approx(2 * first)


def test_the_narrowest_stage_bounds_throughput() -> None:
    asked = list(arrivals("stories", 1.0, 200.0))
    last_end_s = max(at + took for (at, _), took in zip(asked, simulate(ensemble(), asked), strict=True))

    assert last_end_s == pytest.approx(len(asked) * 3 * 2.0, rel=0.02)


def test_a_plan_leaves_room() -> None:
    planned = ensemble().planned(stories_per_s=1.0)

    assert planned.diffusion.replicas == 9
    assert all(used <= PLANNED_UTILISATION for used in planned.utilisation(1.0).values())
    assert max(simulate(planned, list(arrivals("stories", 1.0, 600.0)))) < 20.0


def test_other_requests_share_the_stages_that_they_need() -> None:
    speech, picture, story = simulate(ensemble(), [(0.0, "transcription"), (0.0, "picture"), (0.0, "story")])

    assert (speech, picture) == (pytest.approx(1.0), pytest.approx(2.0))
    assert story == pytest.approx(1.0 + 1.0 + 0.5 + 3 * 2.0)


def test_arrivals_are_the_same_for_the_same_seed_and_have_their_rate_and_shares() -> None:
    asked = list(arrivals("mixed", 2.0, 2000.0))

    assert asked == list(arrivals("mixed", 2.0, 2000.0))
    assert len(asked) == pytest.approx(4000, rel=0.05)
    assert sum(kind == "story" for _, kind in asked) == pytest.approx(2000, rel=0.05)
