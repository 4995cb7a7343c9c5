"""One training by two processes of this machine, by either way of starting them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# diffusers 0.42 speaks of its own when the tiny models are made.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
PLAIN = ("-m", "services.trainer.cli")
# With --cpu accelerate would start one process; what trains on several GPUs also trains on a CPU, with --device cpu.
ACCELERATE = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1", "--machine_rank=0"),
    *("--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"),
)


def settings(palette: Path, tiny: Path, folder: Path) -> dict[str, Any]:
    return {
        "dataset_dir": str(palette), "output_dir": str(folder / "seal"), "model_id": str(tiny / "sd"),
        "resolution": 64, "num_train_epochs": 2, "gradient_accumulation_steps": 1, "train_batch_size": 1,
        "log_steps": 1, "device": "cpu", "num_threads": 1, "tensorboard": False, "progress": "json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("launcher", "environment"),
    [(PLAIN, {"VIDEO_TRAIN_PROCESSES": "2"}), ((*ACCELERATE, *PLAIN), {})],
    ids=["plain", "accelerate"],
)
def test_two_processes_share_the_pictures_and_one_speaks(
    palette: Path, tiny: Path, tmp_path: Path, launcher: tuple[str, ...], environment: dict[str, str]
) -> None:
    command = [sys.executable, *launcher, "style", "--json", json.dumps(settings(palette, tiny, tmp_path))]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert json.loads(line)["success"]
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    # Three pictures make two steps of an epoch where two are learned at a time, and three where one is.
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3, 4]
    assert (tmp_path / "seal" / "pytorch_lora_weights.safetensors").is_file()


def test_ctrl_c_saves_a_checkpoint(palette: Path, tiny: Path, tmp_path: Path) -> None:
    endless = settings(palette, tiny, tmp_path) | {"num_train_epochs": 1_000_000}
    # A shell has its background jobs ignore it, and they leave it at that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        training = subprocess.Popen(
            [sys.executable, *PLAIN, "style", "--json", json.dumps(endless)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "VIDEO_TRAIN_PROCESSES": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert training.stderr is not None
    said = []
    for line in training.stderr:
        said.append(line)
        if '"event": "step"' in line:
            # As from a terminal: all of them get it.
            os.killpg(training.pid, signal.SIGINT)
            break
    out, rest = training.communicate(timeout=120)
    assert training.returncode == 143, [*said, rest]
    assert json.loads(out)["errorType"] == "Cancelled"
    assert list((tmp_path / "seal.run" / "checkpoints").glob("step-*.pt"))
    assert not (tmp_path / "seal").exists()
