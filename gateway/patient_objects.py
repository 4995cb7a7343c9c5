"""An object store for jobs: what is down or full for a while is waited for."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import IO

from gateway.patience import T, patiently
from narrative.errors import NarrativeError
from narrative.objects import Objects


class PatientObjects(Objects):
    """The same store; reads and writes are tried again for a while before they raise StorageUnavailable.

    Args:
        objects: the store.
        window_s: seconds for which one operation is tried again.
        on_wait: told of the error before each pause.
    """

    def __init__(self, objects: Objects, window_s: float, on_wait: Callable[[NarrativeError], Awaitable[None]]) -> None:
        self._store = objects._store
        self._window_s = window_s
        self._on_wait = on_wait

    async def put(self, key: str, data: bytes | IO[bytes]) -> None:
        """Files are read from their start at every attempt."""

        async def attempt() -> None:
            if not isinstance(data, bytes):
                data.seek(0)
            await super(PatientObjects, self).put(key, data)

        await self._patiently(attempt)

    async def get(self, key: str) -> bytes:
        """Raises NotFound where there is no such object."""
        return await self._patiently(lambda: super(PatientObjects, self).get(key))

    async def size(self, key: str) -> int | None:
        """Bytes of an object; None where there is none."""
        return await self._patiently(lambda: super(PatientObjects, self).size(key))

    async def read_range(self, key: str, start: int, length: int) -> bytes:
        """At most ``length`` bytes from ``start`` on; raises NotFound where there is no such object."""
        return await self._patiently(lambda: super(PatientObjects, self).read_range(key, start, length))

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        """Yields the keys of all objects below ``prefix``, once all are known."""

        async def listed() -> list[str]:
            return [key async for key in super(PatientObjects, self).keys(prefix)]

        for key in await self._patiently(listed):
            yield key

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        return await patiently(attempt, self._window_s, self._on_wait)
