"""Every overlay, rendered once."""

import pytest

from tests.unit.deploy.rendering import OVERLAYS, ROOT, Overlay, render


@pytest.fixture(scope="session", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> Overlay:
    """One overlay after the other."""
    name: str = request.param
    return Overlay(name, render(ROOT / "k8s" / "overlays" / name))
