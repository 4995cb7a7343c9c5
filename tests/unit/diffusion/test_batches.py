"""Who is drawn next and with whom; the clock is a number handed in."""

from hypothesis import given
from hypothesis import strategies as st

from services.diffusion.batches import BatchPlanner, Job
from services.diffusion.engine import Adapter
from services.diffusion.plan import DrawSettings

WINDOW_S = 0.005


def look(adapter="", num_steps=20, model="storybook"):
    adapters = (Adapter(adapter, 1.0, 1.0),) if adapter else ()
    return DrawSettings(model, 64, 64, num_steps, 7.5, 0.0, "DDIM", adapters, has_negative_prompt=False)


def job(settings=None, arrived_s=0.0):
    return Job(settings or look(), arrived_s)


def planner(max_batch_size=4, window_s=WINDOW_S, max_same_adapters=2):
    return BatchPlanner(max_batch_size, window_s, max_same_adapters)


def test_an_empty_queue_waits_for_a_job():
    assert planner().next_batch(0.0) == ([], None)


def test_an_incomplete_batch_waits_out_its_window_and_no_longer():
    queue, first = planner(), job(arrived_s=10.0)
    queue.add([first])
    jobs, wait_s = queue.next_batch(10.001)
    assert jobs == []
    assert abs(wait_s - 0.004) < 1e-9
    assert queue.next_batch(10.005) == ([first], None)
    assert len(queue) == 0


def test_a_full_batch_does_not_wait():
    queue, jobs = planner(max_batch_size=2), [job(arrived_s=5.0), job(arrived_s=5.0)]
    queue.add(jobs)
    assert queue.next_batch(5.0) == (jobs, None)


def test_only_equal_settings_are_drawn_together():
    queue = planner()
    few, many, few_too = job(look(num_steps=4)), job(look(num_steps=50)), job(look(num_steps=4))
    queue.add([few, many, few_too])
    assert queue.next_batch(1.0)[0] == [few, few_too]
    assert queue.next_batch(1.0)[0] == [many]


def test_what_is_more_than_a_batch_stays_in_order():
    queue, jobs = planner(max_batch_size=2), [job() for _ in range(5)]
    queue.add(jobs)
    assert [queue.next_batch(1.0)[0] for _ in range(3)] == [jobs[:2], jobs[2:4], jobs[4:]]


def test_jobs_with_the_active_adapters_overtake_but_not_for_ever():
    queue = planner(max_batch_size=1, max_same_adapters=2)
    queue.add([job(look("seal"))])
    queue.next_batch(1.0)
    mist, seals = job(look("mist")), [job(look("seal")) for _ in range(4)]
    queue.add([mist, *seals])
    order = [queue.next_batch(2.0)[0][0] for _ in range(5)]
    assert order == [seals[0], seals[1], mist, seals[2], seals[3]]


def test_different_steps_with_the_same_adapters_need_no_switch():
    queue = planner(max_batch_size=1, max_same_adapters=5)
    queue.add([job(look("seal"))])
    queue.next_batch(1.0)
    other, same = job(look("mist")), job(look("seal", num_steps=50))
    queue.add([other, same])
    assert queue.next_batch(2.0)[0] == [same]


def test_a_discarded_job_is_not_drawn():
    queue, jobs = planner(), [job(), job()]
    queue.add(jobs)
    queue.discard([jobs[0], job()])
    assert queue.next_batch(1.0)[0] == [jobs[1]]


@given(st.lists(st.sampled_from(["", "seal", "mist", "fog"]), min_size=1, max_size=40), st.integers(1, 4))
def test_everyone_is_drawn_once_and_nobody_is_overtaken_more_than_allowed(adapters, max_batch_size):
    most = 3
    queue, jobs = planner(max_batch_size, 0.0, most), [job(look(name)) for name in adapters]
    queue.add(jobs)
    drawn, overtaken_in_a_row = [], 0
    while len(queue):
        oldest = next(one for one in jobs if one not in drawn)
        batch, wait_s = queue.next_batch(1.0)
        assert wait_s is None
        assert len({one.settings for one in batch}) == 1
        assert 1 <= len(batch) <= max_batch_size
        overtaken_in_a_row = 0 if oldest in batch else overtaken_in_a_row + 1
        assert overtaken_in_a_row <= most
        drawn += batch
    assert sorted(map(id, drawn)) == sorted(map(id, jobs))
