"""The rendered objects of an overlay, and the questions that tests ask of them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
OVERLAYS = sorted(path.parent.name for path in (ROOT / "k8s" / "overlays").glob("*/kustomization.yaml"))
# The oldest and the newest release of Kubernetes that is still maintained.
KUBERNETES = ["1.34", "1.37"]
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


def names(objects: list[Object]) -> set[str]:
    return {one["metadata"]["name"] for one in objects}


def allowed(overlay: Overlay, client: str, server: str, port: int) -> bool:
    """Whether pods of one app may open a connection to a port of another in the namespace."""
    out = any(_rule_allows(rule, "to", server, port) for rule in _rules(overlay, client, "egress"))
    into = any(_rule_allows(rule, "from", client, port) for rule in _rules(overlay, server, "ingress"))
    return out and into


def _rules(overlay: Overlay, app: str, direction: str) -> list[dict[str, Any]]:
    return [
        rule
        for policy in overlay.of("NetworkPolicy")
        if _selects(policy["spec"]["podSelector"], app)
        for rule in policy["spec"].get(direction, [])
    ]


def _rule_allows(rule: dict[str, Any], side: str, app: str, port: int) -> bool:
    peers = rule.get(side)
    by_peer = peers is None or any(
        "namespaceSelector" not in peer and _selects(peer.get("podSelector", {}), app) for peer in peers
    )
    return by_peer and ("ports" not in rule or any(entry["port"] == port for entry in rule["ports"]))


def _selects(selector: dict[str, Any], app: str) -> bool:
    label = "app.kubernetes.io/name"
    if not set(selector) <= {"matchLabels", "matchExpressions"}:
        raise AssertionError(selector)
    return selector.get("matchLabels", {}).get(label, app) == app and all(
        expression["key"] == label and expression["operator"] == "In" and app in expression["values"]
        for expression in selector.get("matchExpressions", [])
    )
