"""The rendered objects of an overlay, and the questions that tests ask of them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
OVERLAYS = sorted(path.parent.name for path in (ROOT / "k8s" / "overlays").glob("*/kustomization.yaml"))
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
Object = dict[str, Any]


def render(folder: Path) -> list[Object]:
    """Builds the objects of a kustomization with the kubectl that `make test` put beside the interpreter."""
    kubectl = Path(sys.executable).with_name("kubectl")
    assert kubectl.is_file(), f"{kubectl} is missing: run `make {kubectl}`"
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def with_components(folder: Path, components: list[str]) -> Path:
    """An overlay of base and some components; kustomize wants relative paths."""
    up = Path(*[".."] * len(folder.resolve().parts[1:])) / ROOT.relative_to("/") / "k8s"
    lines = ["apiVersion: kustomize.config.k8s.io/v1beta1", "kind: Kustomization", f"resources: [{up}/base]"]
    lines += ["components:", *(f"  - {up}/components/{name}" for name in components)]
    (folder / "kustomization.yaml").write_text("\n".join(lines) + "\n")
    return folder


class Overlay:
    """The rendered objects of an overlay, and the questions that tests ask of them."""

    def __init__(self, name: str, objects: list[Object]) -> None:
        self.name = name
        self.objects = objects

    def of(self, *kinds: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] in kinds]

    def named(self, kind: str, name: str) -> Object:
        (found,) = [one for one in self.of(kind) if one["metadata"]["name"] == name]
        return found

    def workloads(self) -> list[Object]:
        return self.of(*WORKLOADS)

    def environment(self, workload: Object) -> dict[str, str]:
        """What the first container gets from its ConfigMaps and from plain values; Secrets and pod fields left out."""
        container = pod_of(workload)["containers"][0]
        values: dict[str, str] = {}
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                values |= self.named("ConfigMap", source["configMapRef"]["name"])["data"]
        return values | {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}

    def __repr__(self) -> str:
        return self.name


def pod_of(workload: Object) -> Object:
    """The pod specification of a workload."""
    pod: Object = workload["spec"]["template"]["spec"]
    return pod


def containers_of(workload: Object) -> list[Object]:
    """All containers, those that initialise first."""
    pod = pod_of(workload)
    return [*pod.get("initContainers", []), *pod["containers"]]
