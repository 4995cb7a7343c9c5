"""Data sets: a row each, and files in the object store under keys made from the row.

The row is written last and removed first, so a data set that is there is whole.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

import sqlalchemy as sa

from gateway.database import Database, metadata
from gateway.jobs import now_us
from gateway.store import dataset_key
from gateway.unpacking import Limits, open_zip, unpack
from narrative.errors import DatasetInvalid, NotFound
from narrative.objects import Objects

# Kinds of files that are counted by name; the rest is counted together.
_MAX_SUFFIXES = 20

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("num_files", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("suffixes", sa.JSON, nullable=False),
    sa.Index("datasets_by_age", "created_at_us", "id"),
)


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
        created_at_us: microseconds since 1970, UTC.
        suffixes: number of files by lower-case suffix.
    """

    id: str
    created_at_us: int
    name: str
    num_files: int
    size_bytes: int
    suffixes: dict[str, int]


@dataclass(frozen=True)
class File:
    """A file on its way into a data set; whoever made it closes it."""

    name: str
    content: IO[bytes]
    size_bytes: int


class Datasets:
    """The table of data sets and their files."""

    def __init__(self, database: Database, objects: Objects) -> None:
        self._database = database
        self._objects = objects

    async def add(self, name: str, files: AsyncIterator[File]) -> Dataset:
        """Keeps files; whatever goes wrong on the way, nothing of them is left.

        Raises:
            DatasetInvalid: there are none.
        """
        dataset_id, suffixes, size_bytes = secrets.token_hex(16), Counter[str](), 0
        try:
            async for file in files:
                await self._objects.put(f"{dataset_key(dataset_id)}/{file.name}", file.content)
                suffixes[PurePosixPath(file.name).suffix.lower()] += 1
                size_bytes += file.size_bytes
            if not suffixes:
                raise DatasetInvalid("there are no files in it", field="file")
            counts = dict(suffixes.most_common(_MAX_SUFFIXES))
            dataset = Dataset(dataset_id, now_us(), name, suffixes.total(), size_bytes, counts)
            await self._database.write(lambda connection: connection.execute(datasets.insert().values(**vars(dataset))))
        except BaseException:
            await self._objects.delete_folder(dataset_key(dataset_id))
            raise
        return dataset

    async def get(self, dataset_id: str) -> Dataset:
        """Raises NotFound where there is no such data set."""
        query = sa.select(datasets).where(datasets.c.id == dataset_id)
        row = await self._database.read(lambda connection: connection.execute(query).mappings().first())
        if row is None:
            raise NotFound(f"there is no data set {dataset_id!r}", field="dataset")
        return Dataset(**row)

    async def page(self, before: tuple[int, str] | None, limit: int) -> list[Dataset]:
        """Data sets from the newest, ``limit`` of them, older than ``before`` (created_at_us, id)."""
        query = sa.select(datasets).order_by(datasets.c.created_at_us.desc(), datasets.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(sa.tuple_(datasets.c.created_at_us, datasets.c.id) < sa.tuple_(*before))
        rows = await self._database.read(lambda connection: connection.execute(query).mappings().all())
        return [Dataset(**row) for row in rows]

    async def delete(self, dataset_id: str) -> None:
        """Removes a data set with its files."""
        remove = datasets.delete().where(datasets.c.id == dataset_id)
        await self._database.write(lambda connection: connection.execute(remove))
        await self._objects.delete_folder(dataset_key(dataset_id))

    async def sweep(self, older_than_s: float) -> None:
        """Removes files of uploads that a killed process left half done."""
        for folder in await self._objects.folders("datasets"):
            try:
                await self.get(folder.rpartition("/")[2])
            except NotFound:
                await self._objects.delete_folder(folder, older_than_s)


async def unpacked(archive_file: IO[bytes], limits: Limits) -> AsyncIterator[File]:
    """Yields the files of a zip, one unpacked at a time.

    Raises:
        DatasetInvalid, PayloadTooLarge: as ``gateway.unpacking`` does.
    """
    archive, members = await asyncio.to_thread(open_zip, archive_file, limits)
    with archive:
        for member in members:
            content, size_bytes = await asyncio.to_thread(unpack, archive, member)
            with content:
                yield File(member.name, content, size_bytes)
