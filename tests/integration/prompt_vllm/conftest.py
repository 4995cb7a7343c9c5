"""A real vLLM on the CPU, in its own environment; see run.sh."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from narrative.ports import free_port

ENVIRONMENT = Path(__file__).parents[3] / ".venv-vllm"
START_S = 600
MAX_RUNNING = 8
ADAPTER = "storyteller"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker("vllm")
            if not (ENVIRONMENT / "smollm2-135m" / "config.json").exists():
                item.add_marker(pytest.mark.skip(reason="no .venv-vllm; run tests/integration/prompt_vllm/run.sh"))


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of random weights in PEFT's layout, large enough to change what SmolLM2 says."""
    folder = tmp_path_factory.mktemp("adapter")
    config = json.loads((ENVIRONMENT / "smollm2-135m" / "config.json").read_text())
    width, rank = config["hidden_size"], 4
    values_width = width * config["num_key_value_heads"] // config["num_attention_heads"]
    random = np.random.default_rng(0)
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        for name, out in (("q_proj", width), ("v_proj", values_width)):
            key = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{key}.lora_A.weight"] = random.normal(0, width**-0.5, (rank, width)).astype(np.float32)
            weights[f"{key}.lora_B.weight"] = random.normal(0, 0.3, (out, rank)).astype(np.float32)
    save_file(weights, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"target_modules": ["q_proj", "v_proj"]}))
    return folder


@pytest.fixture(scope="session")
def vllm_url(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a vLLM server of our own, stopped with SIGTERM at the end."""
    port = free_port()
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
        # Many processors have to emulate bfloat16.
        "--dtype": "float32",
        "--max-model-len": 2048,
        "--max-num-seqs": MAX_RUNNING,
        # Only whole blocks are cached, and the CPU's default of 128 tokens would leave out half of the examples.
        "--block-size": 32,
        "--max-lora-rank": 8,
        "--lora-modules": f"{ADAPTER}={adapter}",
        "--host": "127.0.0.1",
        "--port": port,
    }
    flags = ["--enable-prefix-caching", "--enable-lora"]
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(part) for part in [*command, *flags, *(item for option in options.items() for item in option)]],
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
