"""Every overlay, rendered once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from rendering import OVERLAYS, ROOT, Overlay, render


@pytest.fixture(scope="session", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> Overlay:
    """One overlay after the other."""
    name: str = request.param
    return Overlay(name, render(ROOT / "k8s" / "overlays" / name))
