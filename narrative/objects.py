"""Bytes, in a folder or in S3-compatible storage."""

import asyncio
import atexit
import errno
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import IO

import obstore
import structlog
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore, from_url

from narrative.errors import NotFound, StorageUnavailable

CHUNK_BYTES = 512 * 1024
_DELETE_AT_ONCE = 500
_LISTED_AT_ONCE = 500
# Short, for callers wait; jobs try again by themselves.
_MAX_RETRIES = 3
_RETRY_TIMEOUT = timedelta(seconds=20)
RETRY_AFTER_S = 1.0
_LAST_WRITE_S = 1.0
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# How obstore tells of a full disk, an exhausted quota and a full S3 server.
_FULL = (*(f"(os error {number})" for number in NO_ROOM), "507 Insufficient Storage")
_NO_BUCKET = "NoSuchBucket"
log = structlog.get_logger()

# obstore's threads hold on to Python for a moment after they have answered, and a process whose interpreter ends in
# that moment is aborted: one in ten of those that wrote an object last.
atexit.register(time.sleep, 0.1)


class Objects:
    """An object store; every write is whole or not there.

    Every method raises StorageUnavailable, with the reason, where the store does not do what it is asked for.

    Args:
        url: a folder, or a URL such as s3://bucket/prefix; credentials come from the environment, as S3 clients do it.

    Raises:
        StorageUnavailable: there can be none; says why.
    """

    def __init__(self, url: str) -> None:
        try:
            self._store: ObjectStore = (
                from_url(url, retry_config={"max_retries": _MAX_RETRIES, "retry_timeout": _RETRY_TIMEOUT})
                if "://" in url
                else LocalStore(url, mkdir=True, automatic_cleanup=True)
            )
        except (BaseError, OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise StorageUnavailable("the object store cannot be opened", where=f"{url}: {reason}") from error

    async def put(self, key: str, data: bytes | IO[bytes]) -> None:
        with _translated():
            write = asyncio.ensure_future(obstore.put_async(self._store, key, data))
            try:
                await asyncio.shield(write)
            except asyncio.CancelledError:
                # It goes on, on a thread: who removes what was written meanwhile must find it.
                await asyncio.wait({write}, timeout=_LAST_WRITE_S)
                raise

    async def copy(self, source: str, target: str) -> None:
        """Raises NotFound where there is no source."""
        with _translated(source):
            await obstore.copy_async(self._store, source, target)

    async def get(self, key: str) -> bytes:
        """Raises NotFound where there is no such object."""
        with _translated(key):
            found = await obstore.get_async(self._store, key)
            return bytes(await found.bytes_async())

    async def size(self, key: str) -> int | None:
        """Bytes of an object; None where there is none."""
        try:
            with _translated(key):
                return (await obstore.head_async(self._store, key))["size"]
        except NotFound:
            return None

    async def read_range(self, key: str, start: int, length: int) -> bytes:
        """At most ``length`` bytes from ``start`` on; raises NotFound where there is no such object."""
        with _translated(key):
            return bytes(await obstore.get_range_async(self._store, key, start=start, length=length))

    async def head(self, key: str, length: int) -> bytes | None:
        """The first bytes of an object; None where there is none."""
        try:
            return await self.read_range(key, 0, length)
        except NotFound:
            return None

    async def stream(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yields the bytes from ``start`` up to, not including, ``end`` in pieces of at most half a MiB.

        Args:
            end: at most the object's size, which is looked up where it is not given.
        """
        stop = await self.size(key) if end is None else end
        if stop is None:
            raise NotFound(f"there is no object {key!r}")
        while start < stop:
            length = min(CHUNK_BYTES, stop - start)
            yield await self.read_range(key, start, length)
            start += length

    async def delete_folder(self, prefix: str, older_than_s: float = 0.0) -> None:
        """Removes every object below ``prefix`` that is old enough; others may do the same at the same time."""
        limit = datetime.now(UTC) - timedelta(seconds=older_than_s)
        with _translated():
            async for page in obstore.list(self._store, prefix, chunk_size=_DELETE_AT_ONCE):
                paths = [meta["path"] for meta in page if older_than_s == 0.0 or meta["last_modified"] < limit]
                if paths:
                    await self._delete(paths)

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        """Yields the keys of all objects below ``prefix``."""
        with _translated():
            async for page in obstore.list(self._store, prefix, chunk_size=_LISTED_AT_ONCE):
                for meta in page:
                    yield meta["path"]

    async def folders(self, prefix: str) -> list[str]:
        """Prefixes one level below ``prefix`` that have objects below them."""
        with _translated():
            return list((await obstore.list_with_delimiter_async(self._store, prefix))["common_prefixes"])

    async def check(self) -> None:
        """Writes and removes a small object, for a store that is full or read-only can still be read."""
        key = f"readiness/{token_hex(8)}"
        await self.put(key, b"ready")
        with _translated():
            await self._delete([key])

    async def _delete(self, paths: list[str]) -> None:
        try:
            await obstore.delete_async(self._store, paths)
        except FileNotFoundError as error:
            if len(paths) == 1:
                _refuse_without_bucket(error)
                return
            # A folder, unlike S3, minds if somebody else was faster, and stops there.
            for path in paths:
                await self._delete([path])


@contextmanager
def _translated(key: str = "") -> Iterator[None]:
    """Turns obstore's errors into ours.

    Args:
        key: of the object that is read, which may be missing; empty where none can be.
    """
    try:
        yield
    except FileNotFoundError as error:
        _refuse_without_bucket(error)
        if not key:
            raise _unavailable(error, "its bucket or folder is not there") from error
        raise NotFound(f"there is no object {key!r}") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise _unavailable(error, "it refuses the permission to do this") from error
    except BaseError as error:
        if any(sign in str(error) for sign in _FULL):
            raise _unavailable(error, "it has no room left") from error
        _refuse_without_bucket(error)
        raise _unavailable(error, "it does not answer, or fails") from error


def _refuse_without_bucket(error: Exception) -> None:
    if _NO_BUCKET in str(error):
        raise _unavailable(error, "its bucket is not there") from error


def _unavailable(error: Exception, reason: str) -> StorageUnavailable:
    # What obstore says names hosts and paths, which are none of a caller's business.
    log.warning("object store failed", error=str(error).partition("\n")[0])
    return StorageUnavailable(f"the object store cannot be used: {reason}", retry_after_s=RETRY_AFTER_S)
