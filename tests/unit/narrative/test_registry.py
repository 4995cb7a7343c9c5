"""What was trained, in the object store, and copies of it."""

import asyncio
from pathlib import Path

import pytest

from narrative.errors import AdapterNotFound, InvalidParameter, NotFound, WeightsCorrupt
from narrative.objects import Objects
from narrative.registry import ADAPTERS, LocalCopies, Registry

WEIGHTS = "weights.safetensors"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Objects(str(tmp_path / "objects")), ADAPTERS, AdapterNotFound, "adapters")


@pytest.fixture
def copies(registry: Registry, tmp_path: Path) -> LocalCopies:
    return LocalCopies(registry, tmp_path / "copies")


def weights(tmp_path: Path, content: bytes) -> dict[str, Path]:
    path = tmp_path / "made"
    path.write_bytes(content)
    return {WEIGHTS: path}


async def test_what_was_published_is_there_with_what_is_known_of_it(registry: Registry, tmp_path: Path) -> None:
    published = await registry.publish("seal", weights(tmp_path, b"12345"), {"rank": 4})
    await registry.publish("pim", weights(tmp_path, b"1"), {})
    assert await registry.entry("seal") == published
    assert (published.size_bytes, published.description) == (5, {"rank": 4})
    assert [entry.name for entry in await registry.entries()] == ["pim", "seal"]
    await registry.delete("seal")
    assert await registry.names() == ["pim"]
    with pytest.raises(AdapterNotFound, match="no adapter 'seal'; there are: pim") as error:
        await registry.entry("seal")
    assert error.value.field == "adapters"


async def test_names_lead_nowhere_else(registry: Registry, tmp_path: Path) -> None:
    for name in ("../seal", "", ".hidden", "a/b", "a" * 65, "seal\0"):
        with pytest.raises(InvalidParameter, match="is not a name"):
            await registry.entry(name)
        with pytest.raises(InvalidParameter, match="is not a name"):
            await registry.publish(name, weights(tmp_path, b"1"), {})


async def test_an_earlier_version_goes_when_a_new_one_is_there(registry: Registry, tmp_path: Path) -> None:
    await registry.publish("seal", weights(tmp_path, b"old"), {})
    await registry.publish("seal", weights(tmp_path, b"new"), {})
    stored = [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    assert sorted(path.name for path in stored) == ["entry.json", WEIGHTS]
    # The same once more changes nothing, and takes nothing away.
    await registry.publish("seal", weights(tmp_path, b"new"), {})
    assert b"".join([piece async for piece in registry.stream(await registry.entry("seal"), WEIGHTS)]) == b"new"


async def test_a_copy_follows_what_is_published(registry: Registry, copies: LocalCopies, tmp_path: Path) -> None:
    await registry.publish("seal", weights(tmp_path, b"old"), {})
    assert (await copies.folder_of("seal") / WEIGHTS).read_bytes() == b"old"
    await registry.publish("seal", weights(tmp_path, b"new"), {})
    assert (await copies.folder_of("seal") / WEIGHTS).read_bytes() == b"new"
    before = (await copies.folder_of("seal") / WEIGHTS).stat()
    assert (await copies.folder_of("seal") / WEIGHTS).stat() == before, "copied again for nothing"
    await registry.delete("seal")
    with pytest.raises(NotFound):
        await copies.folder_of("seal")
    assert list((tmp_path / "copies").iterdir()) == []


async def test_a_copy_is_checked(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    entry = await registry.publish("seal", weights(tmp_path, b"right"), {})
    copy = await LocalCopies(registry, folder).folder_of("seal")
    (copy / WEIGHTS).write_bytes(b"wrong")
    # Another process does not trust what it finds.
    assert (await LocalCopies(registry, folder).folder_of("seal") / WEIGHTS).read_bytes() == b"right"
    (tmp_path / "objects" / ADAPTERS / "seal" / entry.version / WEIGHTS).write_bytes(b"wrong")
    (copy / WEIGHTS).unlink()
    with pytest.raises(WeightsCorrupt, match="not what was published"):
        await LocalCopies(registry, folder).folder_of("seal")


async def test_many_may_ask_for_one_copy_at_once(registry: Registry, copies: LocalCopies, tmp_path: Path) -> None:
    await registry.publish("seal", weights(tmp_path, b"1" * 2_000_000), {})
    asked = (asyncio.to_thread(lambda: asyncio.run(copies.folder_of("seal"))) for _ in range(8))
    folders = set(await asyncio.gather(*asked))
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["seal"]
    assert folders == {tmp_path / "copies" / "seal"}
