"""One real Triton server for all tests; `make test` and `make test-triton` fetch it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.triton.triton_server import TritonServer


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[TritonServer]:
    # Threads of processes that share two cores would spin for one another.
    server = TritonServer(tmp_path_factory.mktemp("triton") / "triton.log", {"OMP_WAIT_POLICY": "PASSIVE"})
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_triton(tmp_path: Path, models_dir: Path) -> Iterator[TritonServer]:
    """A server of this test alone, not started yet."""
    server = TritonServer(tmp_path / "triton.log", {"OMP_WAIT_POLICY": "PASSIVE"})
    yield server
    server.stop()
