"""How far a narrative has got: objects in the store, each whole or not there."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from narrative.objects import Objects


class Progress:
    """What was made of one narrative.

    Writes go on behind the work. Documents are written in the order in which they were asked for, and a picture after
    the documents before it: a crash never leaves a picture without the scene that it shows.

    Args:
        objects: the store.
        made: keys that an earlier run wrote.
    """

    def __init__(self, objects: Objects, made: set[str]) -> None:
        self._objects = objects
        self._made = made
        self._document: asyncio.Task[None] | None = None
        self._writes: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Returns when everything is written; where the work has failed, gives up what is not."""
        if error is None:
            await self.flush()
            return
        for write in self._writes:
            write.cancel()
        await asyncio.gather(*self._writes, return_exceptions=True)

    async def get(self, key: str) -> bytes | None:
        """What was made under a key; None where nothing was."""
        return await self._objects.get(key) if await self._has(key) else None

    async def head(self, key: str, length: int) -> bytes | None:
        """Its first bytes; None where nothing was made."""
        return await self._objects.head(key, length) if await self._has(key) else None

    def put_document(self, key: str, data: bytes, after_s: float = 0.0) -> None:
        """Writes; ``flush`` raises what goes wrong.

        Args:
            after_s: seconds to wait first, for who goes on with what the document says.
        """
        self._document = self._put(key, data, after_s=after_s)

    def put_picture(self, key: str, data: bytes, done: Callable[[], None]) -> None:
        """Writes, and calls ``done`` when it is written; ``flush`` raises what goes wrong."""
        self._put(key, data, done)

    async def flush(self) -> None:
        """Returns when everything is written."""
        await asyncio.gather(*self._writes)

    async def _has(self, key: str) -> bool:
        if key not in self._made:
            return False
        await self.flush()
        return True

    def _put(
        self, key: str, data: bytes, done: Callable[[], None] = lambda: None, after_s: float = 0.0
    ) -> asyncio.Task[None]:
        self._made.add(key)
        write = asyncio.create_task(self._write(self._document, key, data, done, after_s))
        self._writes.append(write)
        return write

    async def _write(
        self, before: asyncio.Task[None] | None, key: str, data: bytes, done: Callable[[], None], after_s: float
    ) -> None:
        if after_s:
            await asyncio.sleep(after_s)
        if before is not None:
            await before
        await self._objects.put(key, data)
        done()
