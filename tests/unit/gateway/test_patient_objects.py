"""A job's store waits for what comes back, and for nothing else."""

from pathlib import Path

import pytest

from gateway.patient_objects import PatientObjects
from narrative.errors import NarrativeError, NotFound, StorageUnavailable
from narrative.objects import Objects


@pytest.fixture
def obstacle(tmp_path: Path) -> Path:
    """A file where the store wants a folder."""
    path = tmp_path / "stories"
    path.write_text("in the way")
    return path


async def test_a_store_that_comes_back_is_waited_for(obstacle: Path) -> None:
    told: list[str] = []

    async def on_wait(error: NarrativeError) -> None:
        told.append(error.message)
        if len(told) == 2:
            obstacle.unlink()  # noqa: ASYNC240  a moment

    objects = PatientObjects(Objects(str(obstacle.parent)), 30.0, on_wait)

    await objects.put("stories/1", b"abc")

    assert len(told) == 2
    assert await objects.get("stories/1") == b"abc"
    assert [piece async for piece in objects.stream("stories/1")] == [b"abc"]


async def test_a_store_that_stays_away_is_given_up(obstacle: Path) -> None:
    told: list[str] = []

    async def on_wait(error: NarrativeError) -> None:
        told.append(error.message)

    objects = PatientObjects(Objects(str(obstacle.parent)), 0.2, on_wait)

    with pytest.raises(StorageUnavailable, match="object store"):
        await objects.head("stories/1", 4)
    assert told


async def test_what_is_not_there_is_not_waited_for(tmp_path: Path) -> None:
    async def on_wait(error: NarrativeError) -> None:
        raise AssertionError(error)

    with pytest.raises(NotFound):
        await PatientObjects(Objects(str(tmp_path)), 30.0, on_wait).get("stories/1")
