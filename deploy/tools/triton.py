"""Puts a real Triton Inference Server at a path: ``python deploy/tools/triton.py .venv/triton``.

The server's own distribution is a container image. The wheel of PyTriton carries the same binary with the Python
backend; it is downloaded by digest and unpacked, never installed, for it asks for an older numpy than the services.
Linux on x86-64 only, as the wheel is. ``deploy/triton/serve.py`` starts what is unpacked here.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "nvidia-pytriton==0.7.0"
SHA256 = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
PARTS = ("pytriton/tritonserver/", "nvidia_pytriton.libs/", "nvidia_pytriton-0.7.0.dist-info/licenses/")


def main(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*command, "--dest", folder, "--requirement", str(requirements)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        unpacked = Path(folder) / "triton"
        with zipfile.ZipFile(wheel) as package:
            package.extractall(unpacked, [name for name in package.namelist() if name.startswith(PARTS)])
        server = unpacked / "pytriton" / "tritonserver"
        backend = server / "backends" / "python"
        # The backend runs every model in a process of this program, which is built for one version of Python.
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = backend / "triton_python_backend_stub"
        shutil.copy(server / "python_backend_stubs" / version / stub.name, stub)
        for program in (stub, server / "bin" / "tritonserver"):
            program.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(unpacked, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
