"""Data, weights and outputs never enter git; what is shipped was made here and is small."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".arrow", ".parquet", ".npy", ".npz", ".h5",
)  # fmt: skip
# What Storybook draws with and is judged by, and what the gloss engine knows.
OWN = ("deploy/models/storybook/", "services/trainer/storybook/judge.safetensors", "services/translation/data/")


def git(*arguments: str, given: str = "") -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, input=given, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


@pytest.fixture(autouse=True, scope="module")
def checkout() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")


def test_no_weights_and_no_data_are_kept() -> None:
    kept = [name for name in git("ls-files") if name.endswith(WEIGHTS)]
    assert kept
    assert [name for name in kept if not name.startswith(OWN)] == []


@pytest.mark.parametrize(
    "name",
    [
        "artist_seal/pytorch_lora_weights.safetensors",
        "adapters/pim/training.json.safetensors",
        "adapters/pim.run/checkpoints/step-00000500.pt",
        "adapters/pim.run/tensorboard/events.out.tfevents.1.host.1.0",
        "night/unet/diffusion_pytorch_model.safetensors",
        "videos/arrow/data-00000-of-00001.arrow",
        "set/train.parquet",
        "speech-models/mine/model.bin",
        "outputs/anything.txt",
        "stories/talk/story.html",
    ],
)
def test_what_trainings_leave_in_a_checkout_is_ignored(name: str) -> None:
    assert git("check-ignore", "--stdin", given=name) == [name]


def test_what_is_shipped_is_not_ignored() -> None:
    shipped = [
        f"{OWN[0]}unet/diffusion_pytorch_model.safetensors",
        OWN[1],
        "deploy/models/whisper-base.yaml",
        "README.md",
    ]
    assert git("check-ignore", "--no-index", "--stdin", given="\n".join(shipped)) == []
