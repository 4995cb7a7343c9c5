"""A base model that comes from a mirror of the hub, which HF_ENDPOINT names: a small one on this machine."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# diffusers 0.42 speaks of its own when the tiny models are made.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "somebody/tiny"
TRAINS = f"""
import json, sys
from services.trainer.pictures.base import load_base
base = load_base({REPOSITORY!r}, ["sd"], "no")
print(json.dumps([base.family, base.num_steps, base.denoiser.config.in_channels]))
"""
PULLS = f"""
import sys
from pathlib import Path
from narrative.catalogue import HubSource
from narrative.weights import _fetch_hub
source = HubSource(kind="hub", repository={REPOSITORY!r}, revision={COMMIT!r}, allow_patterns=["*.json"])
_fetch_hub(source, Path(sys.argv[1]), print)
"""


class Mirror(ThreadingHTTPServer):
    """Answers as the hub does for one repository, and notes what it was asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.asked = folder, list[str]()


class Answer(BaseHTTPRequestHandler):
    server: Mirror

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path, folder = self.path.partition("?")[0], self.server.folder
        about, files = f"/api/models/{REPOSITORY}", f"/{REPOSITORY}/resolve/{COMMIT}/"
        names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
        if path.startswith(f"{about}/tree/"):
            self._json([self._entry(name) for name in names])
        elif path.startswith(about):
            siblings = [{"rfilename": name} for name in names]
            self._json({"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": siblings, "tags": []})
        elif path.startswith(files) and path.removeprefix(files) in names:
            self._send((folder / path.removeprefix(files)).read_bytes(), "application/octet-stream")
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass

    def _entry(self, name: str) -> dict[str, object]:
        content = (self.server.folder / name).read_bytes()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _json(self, content: object) -> None:
        self._send(json.dumps(content).encode(), "application/json")

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def mirror(tiny: Path) -> Iterator[Mirror]:
    server = Mirror(tiny / "sd")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def run(program: str, mirror: Mirror, home: Path, *arguments: str) -> str:
    """A process of its own: the hub's library reads the variable when it is imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = kept | {
        "HF_ENDPOINT": f"http://127.0.0.1:{mirror.server_port}",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_training_takes_its_base_from_the_mirror(mirror: Mirror, tmp_path: Path) -> None:
    assert json.loads(run(TRAINS, mirror, tmp_path / "home")) == ["sd", 3, 4]
    assert any(path.endswith("unet/diffusion_pytorch_model.safetensors") for path in mirror.asked)


def test_weights_of_the_catalogue_come_from_the_mirror(mirror: Mirror, tmp_path: Path) -> None:
    run(PULLS, mirror, tmp_path / "home", str(tmp_path / "models"))
    index = (tmp_path / "models" / "model_index.json").read_bytes()
    assert index == (mirror.folder / "model_index.json").read_bytes()
    assert not list((tmp_path / "models").rglob("*.safetensors"))
