"""Markers come from the path: a test under tests/integration is an integration test."""

import os
from pathlib import Path

import pytest

# It warns of every missing optional package when it is imported.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# Threads that spin while they wait take the cores from the processes they wait for; read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# PostgreSQL is stopped as another user, for which Python forks; what gRPC does at a fork aborts the child now and then.
# Read when gRPC is first imported, so nothing of ours is imported above.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
SPEECH = Path(__file__).parent / "data" / "speech"
KINDS = ("unit", "integration", "e2e")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for kind in KINDS:
            if kind in item.path.parts:
                item.add_marker(kind)


@pytest.fixture(scope="session")
def speech() -> Path:
    """Folder of test recordings; see its README."""
    return SPEECH


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """Models folder with everything the embedded profile needs, pulled where it was not there yet."""
    from narrative.catalogue import Catalogue
    from narrative.settings import CommonSettings
    from narrative.weights import pull

    catalogue, folder = Catalogue(), CommonSettings().models_dir
    for entry in catalogue.for_profile("embedded"):
        pull(catalogue, entry, folder)
    return folder
