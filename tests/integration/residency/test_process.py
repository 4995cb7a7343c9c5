"""The residency service as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def test_without_a_gpu_the_process_ends_with_one_line_that_says_what_to_declare() -> None:
    # With no GPU visible, the test is the same on machines that have one.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "NARRATIVE_RESIDENCY__PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "services.residency"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "cannot start" in done.stderr
    assert "declare a device" in done.stderr
    assert "Traceback" not in done.stderr
