"""What an object store says when it cannot do what it is asked for. Folders are files, not sockets."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import BaseError, GenericError, PermissionDeniedError

from narrative.errors import NotFound, StorageUnavailable
from narrative.objects import Objects


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(str(tmp_path / "objects"))


async def test_what_is_not_there(objects: Objects) -> None:
    for reading in (objects.get("a/b"), objects.copy("a/b", "c"), objects.read_range("a/b", 0, 1)):
        with pytest.raises(NotFound, match="a/b"):
            await reading
    assert await objects.size("a/b") is None
    assert await objects.head("a/b", 4) is None


async def test_a_folder_that_cannot_be_used_says_so(objects: Objects, tmp_path: Path) -> None:
    (tmp_path / "objects" / "stories").write_text("a file where a folder should be")

    for use in (objects.put("stories/1", b"x"), objects.get("stories/1"), objects.size("stories/1")):
        with pytest.raises(StorageUnavailable, match="the object store cannot be used") as refused:
            await use
        assert refused.value.retry_after_s > 0
        assert str(tmp_path) not in refused.value.message


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (GenericError("Generic LocalFileSystem error: No space left on device (os error 28)\n\nDebug"), "no room left"),
        (GenericError("Server returned non-2xx status code: 507 Insufficient Storage: <Error/>"), "no room left"),
        (FileNotFoundError("404 Not Found: <Error><Code>NoSuchBucket</Code>"), "bucket is not there"),
        (FileNotFoundError("Object at location k not found"), "bucket or folder is not there"),
        (PermissionDeniedError("403 Forbidden: <Code>AccessDenied</Code>"), "permission"),
        (GenericError("HTTP error: error sending request"), "does not answer"),
    ],
)
async def test_reasons(objects: Objects, monkeypatch: pytest.MonkeyPatch, error: BaseError, reason: str) -> None:
    async def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(obstore, "put_async", fail)

    with pytest.raises(StorageUnavailable, match=reason):
        await objects.put("k", b"x")
    with pytest.raises(StorageUnavailable, match=reason):
        await objects.check()


async def test_a_check_leaves_nothing(objects: Objects, tmp_path: Path) -> None:
    await objects.check()

    assert list((tmp_path / "objects").iterdir()) == []


async def test_several_may_delete_the_same_folder(objects: Objects) -> None:
    for number in range(50):
        await objects.put(f"stories/{number}", b"x")

    await asyncio.gather(*(objects.delete_folder("stories") for _ in range(4)))

    assert [key async for key in objects.keys("stories")] == []


async def test_a_write_that_is_given_up_has_ended_before_anything_is_removed(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def write() -> None:
        begun.set()
        time.sleep(0.2)
        ended.set()

    monkeypatch.setattr(obstore, "put_async", lambda *_: asyncio.get_running_loop().run_in_executor(None, write))
    putting = asyncio.create_task(objects.put("k", b"x"))
    await asyncio.to_thread(begun.wait)

    putting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await putting
    assert ended.is_set()
