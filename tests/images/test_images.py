"""Every image without a container engine: its files, its install commands and its process, run as its user.

Each test lays out the build context, runs the RUN lines of the install stage in a clean virtual environment, starts the
entry point with the image's environment, and waits until the image's own health check is content.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from narrative.ports import free_ports

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "deploy"))
from dockerfile import ROOT, Stage, images, stages

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]
IMAGES = images()
START_S = 180
# Estimated from the installed files: the environment, without Python's own 130 MB of the base image.
LARGEST_MB = {"gateway": 300, "prompt": 200, "llama": 250, "models": 200, "residency": 200}
USER = 10001


def _runs(python: str, **user: Any) -> bool:
    try:
        return subprocess.run([python, "-c", "import ensurepip"], cwd="/", check=False, **user).returncode == 0
    except OSError:
        return False


# As root, processes become the images' user; that needs a Python that other users may run.
AS_USER: dict[str, Any] = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
PYTHON = next((one for one in (sys.executable, "/usr/bin/python3.11") if _runs(one, **AS_USER)), "")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's own, which other users cannot enter."""
    path = Path(tempfile.mkdtemp(prefix="narrative-image-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_installs_and_starts(name: str, folder: Path, models_dir: Path) -> None:
    image, install = IMAGES[name], stages()[f"install-{name}"]
    source, environment = folder / "src", folder / "opt"
    copy_context(install, source)
    for command in install.all("RUN"):
        run_line(command, source, environment)

    mb = sum(path.stat().st_size for path in environment.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6
    print(f"\n{name}: {mb:.0f} MB installed")  # noqa: T201  the figure is what one runs this for
    assert mb <= LARGEST_MB.get(name, float("inf"))
    data, models = folder / "data", folder / "models"
    shutil.copytree(models_dir, models)
    data.mkdir()
    if os.geteuid() == 0:
        for path in (data, models, *models.rglob("*")):
            os.chown(path, USER, USER)
    variables = {**image.environment, "NARRATIVE_DATA_DIR": str(data), "NARRATIVE_MODELS_DIR": str(models)}
    variables |= {"PATH": f"{environment}/bin:/usr/bin:/bin", "HOME": str(data), "TMPDIR": str(data)}
    if name == "models":
        done = as_user(["narrate", "models", "verify", "whisper-base"], variables, environment)
        assert done.wait(120) == 0
        return
    assert starts(name, image, variables, environment)


def copy_context(stage: Stage, target: Path) -> None:
    """What the COPY lines name, of the files that git knows or would take: what the ignore file lets through."""
    named = [word for line in stage.all("COPY") for word in shlex.split(line)[:-1]]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *named],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for line in listed.stdout.splitlines():
        if (ROOT / line).is_file():
            (target / line).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / line, target / line)


def run_line(command: str, source: Path, environment: Path) -> None:
    """A RUN line, with the image's folders replaced by ours."""
    assert PYTHON, f"no Python 3.11 here that user {USER} may run"
    moved = command.replace("/opt/narrative", str(environment)).replace("python -m venv", f"{PYTHON} -m venv")
    done = subprocess.run(
        ["/bin/sh", "-c", moved], cwd=source, capture_output=True, text=True, check=False,
        env={**os.environ, "VARIANT": "cpu", "PIP_NO_CACHE_DIR": "0"},
    )  # fmt: skip
    assert done.returncode == 0, f"{moved}\n{done.stderr[-2000:]}"


def as_user(command: list[str], variables: dict[str, str], environment: Path) -> "subprocess.Popen[bytes]":
    program = environment / "bin" / command[0]
    return subprocess.Popen([str(program), *command[1:]], env=variables, cwd="/", **AS_USER)


def starts(name: str, image: Stage, variables: dict[str, str], environment: Path) -> bool:
    """Whether the health check is content within START_S; on a port of our own, so that nothing is disturbed."""
    port, *others = free_ports(3)
    exposed = image.last("EXPOSE")
    # Paths of the image are those of the environment here.
    command = [word.replace("/opt/narrative", str(environment)) for word in image.entrypoint]
    if name == "triton":
        ports = zip(("http", "grpc", "metrics"), (port, *others), strict=True)
        command += [f"--{what}-port={number}" for what, number in ports]
    else:
        (host,) = [key for key in variables if key.endswith("__HOST")]
        variables |= {host.replace("__HOST", "__PORT"): str(port), host: "127.0.0.1"}
    if name == "prompt":
        # Without an LLM beside it.
        variables["NARRATIVE_PROMPT__STARTUP_WAIT_S"] = "0"
    if name == "residency":
        # Without a GPU.
        variables["NARRATIVE_RESIDENCY__DEVICES"] = '{"host:0": "1GiB"}'
    check = [word.replace(f":{exposed}", f":{port}") for word in image.healthcheck]
    process = as_user(command, variables, environment)
    try:
        until = time.monotonic() + START_S
        while time.monotonic() < until and process.poll() is None:
            if as_user(check, variables, environment).wait(60) == 0:
                return True
        return False
    finally:
        process.terminate()
        process.wait(60)
