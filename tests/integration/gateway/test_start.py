"""A gateway that cannot start says why in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("NARRATIVE_DATA_DIR", "{file}/below", "NotADirectoryError"),
        ("NARRATIVE_DATABASE_URL", "sqlite:///{folder}", "unable to open database file"),
        ("NARRATIVE_DATABASE_URL", "postgresql://somebody@127.0.0.1:1/narratives", "Connection refused"),
        ("NARRATIVE_GATEWAY__OBJECT_STORE_URL", "s3://", "s3://: Generic URL error"),
        ("NARRATIVE_GATEWAY__OBJECT_STORE_URL", "{file}/below", "the object store cannot be opened"),
    ],
)
def test_why_it_cannot_start(variable: str, value: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    environment = {
        **os.environ,
        "NARRATIVE_DATA_DIR": str(tmp_path / "data"),
        "NARRATIVE_GATEWAY__PORT": "0",
        variable: value.format(file=file, folder=tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "gateway"], env=environment, capture_output=True, text=True, check=False, timeout=120
    )

    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "cannot start" in line)
    assert reason in line
