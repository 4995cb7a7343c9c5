"""Settings and engines without sockets, weights or torch."""

import io
from collections.abc import Callable, Iterator

import PIL.Image
import pytest

from services.diffusion.engine_fake import FakeEngine
from services.diffusion.settings import DiffusionSettings


@pytest.fixture
def make_settings(tmp_path) -> Callable[..., DiffusionSettings]:
    """Settings with an object store and a folder of adapters of the test's own."""
    own = {"adapters_dir": tmp_path / "copies", "object_store_url": str(tmp_path / "objects"), "engine": "fake"}
    return lambda **fields: DiffusionSettings(**{**own, **fields})


@pytest.fixture
def make_engine(make_settings) -> Iterator[Callable[..., FakeEngine]]:
    """Loaded fake engines, closed after the test."""
    engines: list[FakeEngine] = []

    def make(**fields: object) -> FakeEngine:
        engines.append(FakeEngine(make_settings(**fields)))
        engines[-1].load()
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def png_file() -> Callable[[int, int], bytes]:
    """Makes a PNG file of a size."""

    def make(width: int, height: int) -> bytes:
        file = io.BytesIO()
        PIL.Image.new("RGB", (width, height), "green").save(file, "PNG")
        return file.getvalue()

    return make
