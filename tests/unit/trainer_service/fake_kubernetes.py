"""A fake of the Kubernetes API: the few paths that trainings ask for, and pods that are processes of this machine.

A pod runs the command of its container with its environment; its standard output is its log. Nothing of the cluster is
real here: neither scheduling, nor images, nor volumes.
"""

import json
import os
import re
import subprocess
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "a token"
NAMESPACE = "narrative"
BATCH = f"/apis/batch/v1/namespaces/{NAMESPACE}"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


class FakeKubernetes:
    """Answers on a port of this machine.

    Attributes:
        template: ``spec.jobTemplate`` of the CronJob "training".
        pending: status of pods that do not begin, by the test's wish.
        refuse: HTTP status with which everything is refused.
    """

    def __init__(self, template: dict[str, Any], logs: Path) -> None:
        self.template, self.logs = template, logs
        self.pending: dict[str, Any] | None = None
        self.refuse = 0
        self.jobs: dict[str, dict[str, Any]] = {}
        self.created: list[dict[str, Any]] = []
        self._processes: dict[str, list[subprocess.Popen[bytes]]] = {}
        self._pods: dict[str, list[dict[str, Any]]] = {}
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        for processes in self._processes.values():
            for process in processes:
                process.kill()
                process.wait()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def credentials(self, folder: Path) -> Path:
        """A folder as Kubernetes mounts it into pods."""
        folder.mkdir()
        (folder / "token").write_text(f"{TOKEN}\n")
        (folder / "namespace").write_text(NAMESPACE)
        return folder

    def begin(self) -> None:
        """Lets pods begin that had to wait."""
        with self._lock:
            self.pending = None
            for name in list(self.jobs):
                self._start_pods(name)

    def _create(self, job: dict[str, Any]) -> int:
        name = job["metadata"]["name"]
        with self._lock:
            if name in self.jobs:
                return 409
            self.jobs[name] = {**job, "status": {}}
            self.created.append(job)
            self._pods[name], self._processes[name] = [], []
            if self.pending is None:
                self._start_pods(name)
            else:
                self._pods[name] = [self._pod(name, 0, self.pending)]
        return 201

    def _pod(self, job: str, index: int, status: dict[str, Any]) -> dict[str, Any]:
        labels = {"batch.kubernetes.io/job-name": job, "batch.kubernetes.io/job-completion-index": str(index)}
        metadata = {
            "name": f"{job}-{index}",
            "uid": uuid.uuid4().hex,
            "labels": labels,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }
        return {"metadata": metadata, "status": status}

    def _start_pods(self, name: str) -> None:
        spec = self.jobs[name]["spec"]
        (container,) = spec["template"]["spec"]["containers"]
        self._pods[name] = []
        for index in range(spec["completions"]):
            environment = {entry["name"]: entry["value"] for entry in container["env"]}
            environment["JOB_COMPLETION_INDEX"] = str(index)
            with (self.logs / f"{name}-{index}").open("wb") as log:
                self._processes[name].append(
                    subprocess.Popen(container["command"], env={**os.environ, **environment}, stdout=log)
                )
            self._pods[name].append(self._pod(name, index, {"phase": "Running"}))
        threading.Thread(target=self._wait, args=(name, list(self._processes[name])), daemon=True).start()

    def _wait(self, name: str, processes: list[subprocess.Popen[bytes]]) -> None:
        statuses = [process.wait() for process in processes]
        with self._lock:
            for pod, status in zip(self._pods.get(name, []), statuses, strict=False):
                reason = "Completed" if status == 0 else "OOMKilled" if status == -9 else "Error"
                pod["status"] = {
                    "phase": "Succeeded" if status == 0 else "Failed",
                    "containerStatuses": [{"state": {"terminated": {"reason": reason, "exitCode": status}}}],
                }
            if name not in self.jobs:
                return
            if "deletionTimestamp" in self.jobs[name]["metadata"]:
                del self.jobs[name]
                return
            kind = "Failed" if any(statuses) else "Complete"
            self.jobs[name]["status"] = {"conditions": [{"type": kind, "status": "True"}]}

    def _delete(self, name: str) -> int:
        with self._lock:
            if name not in self.jobs:
                return 404
            running = [process for process in self._processes[name] if process.poll() is None]
            if running:
                self.jobs[name]["metadata"] = {**self.jobs[name]["metadata"], "deletionTimestamp": "now"}
                for process in running:
                    process.terminate()
            else:
                del self.jobs[name]
        return 200

    def _log(self, pod: str, write: Any) -> None:
        job, _, index = pod.rpartition("-")
        process = self._processes[job][int(index)]
        with (self.logs / pod).open("rb") as log:
            while True:
                is_over = process.poll() is not None
                write(log.read())
                if is_over:
                    return
                threading.Event().wait(0.02)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Tests are quiet."""

            def do_GET(self) -> None:
                path = urlsplit(self.path)
                if self._is_refused():
                    return
                if path.path == f"{BATCH}/cronjobs/training":
                    self._answer(200, {"spec": {"suspend": True, "jobTemplate": fake.template}})
                elif found := re.fullmatch(f"{BATCH}/jobs/([^/]+)", path.path):
                    job = fake.jobs.get(found[1])
                    self._answer(200 if job else 404, job or {"message": "no such job"})
                elif path.path == PODS:
                    (selector,) = parse_qs(path.query)["labelSelector"]
                    self._answer(200, {"items": fake._pods.get(selector.partition("=")[2], [])})
                elif found := re.fullmatch(f"{PODS}/([^/]+)/log", path.path):
                    self.send_response(200)
                    self.end_headers()
                    fake._log(found[1], self._write)
                else:
                    self._answer(404, {"message": f"nothing at {path.path}"})

            def do_POST(self) -> None:
                job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self._is_refused():
                    self._answer(fake._create(job), job)

            def do_DELETE(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if not self._is_refused():
                    self._answer(fake._delete(self.path.rpartition("/")[2]), {})

            def _is_refused(self) -> bool:
                if self.headers["Authorization"] != f"Bearer {TOKEN}":
                    self._answer(401, {"message": "Unauthorized"})
                elif fake.refuse:
                    self._answer(fake.refuse, {"message": "not today"})
                else:
                    return False
                return True

            def _write(self, data: bytes) -> None:
                self.wfile.write(data)
                self.wfile.flush()

            def _answer(self, status: int, content: object) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler
