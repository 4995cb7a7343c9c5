"""A real vLLM on the CPU, in its own environment; see run.sh."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ENVIRONMENT = Path(__file__).parents[3] / ".venv-vllm"
START_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker("vllm")
            if not (ENVIRONMENT / "smollm2-135m" / "config.json").exists():
                item.add_marker(pytest.mark.skip(reason="no .venv-vllm; run tests/integration/prompt_vllm/run.sh"))


@pytest.fixture(scope="session")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a vLLM server of our own, stopped with SIGTERM at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [ENVIRONMENT / "bin" / "python", "-m", "vllm.entrypoints.openai.api_server"]
    options = {
        "--model": ENVIRONMENT / "smollm2-135m",
        "--served-model-name": "smollm2-135m",
        "--dtype": "bfloat16",
        "--max-model-len": 2048,
        "--max-num-seqs": 32,
        "--host": "127.0.0.1",
        "--port": port,
    }
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(part) for part in [*command, *(item for option in options.items() for item in option)]],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        until = time.monotonic() + START_S
        while True:
            assert process.poll() is None, log.read_text()[-5000:]
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).status_code == 200:
                    break
            except httpx.HTTPError:
                assert time.monotonic() < until, log.read_text()[-5000:]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
