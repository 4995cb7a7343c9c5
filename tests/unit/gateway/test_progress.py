"""What a narrative has made is written behind the work, and never out of order."""

import asyncio

import pytest

from gateway.progress import Progress
from narrative.errors import StorageUnavailable
from narrative.objects import Objects


class HeldObjects(Objects):
    """A folder whose writes wait until they are let go."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.begun: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.broken: set[str] = set()

    async def put(self, key: str, data: object) -> None:
        self.begun.append(key)
        if key in self.gates:
            await self.gates[key].wait()
        if key in self.broken:
            raise StorageUnavailable("full")
        assert isinstance(data, bytes)
        await super().put(key, data)


@pytest.fixture
def objects(tmp_path):
    return HeldObjects(str(tmp_path))


async def test_a_picture_is_written_after_its_scene_and_beside_others(objects):
    objects.gates["scene"] = asyncio.Event()
    objects.gates["1.png"] = asyncio.Event()
    told = []
    async with Progress(objects, set()) as progress:
        progress.put_document("scene", b"{}")
        progress.put_picture("1.png", b"1", lambda: told.append("1.png"))
        progress.put_picture("2.png", b"2", lambda: told.append("2.png"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert objects.begun == ["scene"]
        objects.gates["scene"].set()
        while told != ["2.png"]:
            await asyncio.sleep(0)
        objects.gates["1.png"].set()
    assert told == ["2.png", "1.png"]
    assert await objects.get("1.png") == b"1"


async def test_what_is_asked_for_is_written_first(objects):
    async with Progress(objects, set()) as progress:
        assert await progress.get("scene") is None
        progress.put_document("scene", b"{}")
        assert await progress.get("scene") == b"{}"
        assert await progress.head("scene", 1) == b"{"


async def test_what_an_earlier_run_made_is_there(objects):
    await objects.put("scene", b"{}")
    assert await Progress(objects, {"scene"}).get("scene") == b"{}"
    assert await Progress(objects, set()).get("scene") is None


async def test_a_write_that_fails_fails_the_run_and_what_follows_from_it(objects):
    objects.broken.add("scene")

    async def work() -> None:
        async with Progress(objects, set()) as progress:
            progress.put_document("scene", b"{}")
            progress.put_picture("1.png", b"1", lambda: pytest.fail("its scene is not there"))

    with pytest.raises(StorageUnavailable):
        await work()
    assert objects.begun == ["scene"]


async def test_work_that_fails_gives_up_its_writes(objects):
    objects.gates["scene"] = asyncio.Event()

    async def work() -> None:
        async with Progress(objects, set()) as progress:
            progress.put_document("scene", b"{}")
            await asyncio.sleep(0)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await work()
    assert await objects.size("scene") is None
