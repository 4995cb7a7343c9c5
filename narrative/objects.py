"""Bytes, in a folder or in S3-compatible storage."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import IO

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

from narrative.errors import NotFound

CHUNK_BYTES = 512 * 1024
_DELETE_AT_ONCE = 500
_LISTED_AT_ONCE = 500


class Objects:
    """An object store; every write is whole or not there.

    Args:
        url: a folder, or a URL such as s3://bucket/prefix; credentials come from the environment, as S3 clients do it.
    """

    def __init__(self, url: str) -> None:
        self._store: ObjectStore = (
            from_url(url) if "://" in url else LocalStore(url, mkdir=True, automatic_cleanup=True)
        )

    async def put(self, key: str, data: bytes | IO[bytes]) -> None:
        await obstore.put_async(self._store, key, data)

    async def copy(self, source: str, target: str) -> None:
        """Raises NotFound where there is no source."""
        try:
            await obstore.copy_async(self._store, source, target)
        except FileNotFoundError as error:
            raise NotFound(f"there is no object {source!r}") from error

    async def get(self, key: str) -> bytes:
        """Raises NotFound where there is no such object."""
        try:
            found = await obstore.get_async(self._store, key)
            return bytes(await found.bytes_async())
        except FileNotFoundError as error:
            raise NotFound(f"there is no object {key!r}") from error

    async def size(self, key: str) -> int | None:
        """Bytes of an object; None where there is none."""
        try:
            return (await obstore.head_async(self._store, key))["size"]
        except FileNotFoundError:
            return None

    async def head(self, key: str, length: int) -> bytes | None:
        """The first bytes of an object; None where there is none."""
        try:
            return bytes(await obstore.get_range_async(self._store, key, start=0, length=length))
        except FileNotFoundError:
            return None

    async def stream(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yields the bytes from ``start`` up to, not including, ``end`` in pieces of at most half a MiB."""
        size = await self.size(key)
        if size is None:
            raise NotFound(f"there is no object {key!r}")
        stop = size if end is None else min(end, size)
        while start < stop:
            length = min(CHUNK_BYTES, stop - start)
            yield bytes(await obstore.get_range_async(self._store, key, start=start, length=length))
            start += length

    async def delete_folder(self, prefix: str, older_than_s: float = 0.0) -> None:
        """Removes every object below ``prefix`` that is old enough."""
        limit = datetime.now(UTC) - timedelta(seconds=older_than_s)
        async for page in obstore.list(self._store, prefix, chunk_size=_DELETE_AT_ONCE):
            paths = [meta["path"] for meta in page if older_than_s == 0.0 or meta["last_modified"] < limit]
            if paths:
                await obstore.delete_async(self._store, paths)

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        """Yields the keys of all objects below ``prefix``."""
        async for page in obstore.list(self._store, prefix, chunk_size=_LISTED_AT_ONCE):
            for meta in page:
                yield meta["path"]

    async def folders(self, prefix: str) -> list[str]:
        """Prefixes one level below ``prefix`` that have objects below them."""
        return list((await obstore.list_with_delimiter_async(self._store, prefix))["common_prefixes"])

    async def check(self) -> None:
        """Raises whatever keeps the store from being read."""
        async for _ in obstore.list(self._store, "readiness", chunk_size=1):
            break
