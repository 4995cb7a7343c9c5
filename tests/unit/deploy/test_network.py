"""Who may speak to whom in the cluster: an egress rule and an ingress rule must both say yes."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.deploy.rendering import Overlay, allowed, names, pod_of, render, with_components


def test_all_is_denied_first(overlay: Overlay) -> None:
    policy = overlay.named("NetworkPolicy", "default-deny")["spec"]

    assert policy == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize(
    ("client", "server", "port"),
    [
        ("gateway", "asr", 50051),
        ("gateway", "prompt", 50052),
        ("gateway", "translation", 50053),
        ("gateway", "diffusion", 50054),
        ("prompt", "LLM", 0),
    ],
)
def test_who_needs_it_gets_through(overlay: Overlay, client: str, server: str, port: int) -> None:
    llm, llm_port = ("llama", 8081) if "llama" in names(overlay.workloads()) else ("vllm", 8000)
    server, port = (llm, llm_port) if server == "LLM" else (server, port)

    assert allowed(overlay, client, server, port)


def test_nobody_else_does(overlay: Overlay) -> None:
    llm, llm_port = ("llama", 8081) if "llama" in names(overlay.workloads()) else ("vllm", 8000)
    ports = {"asr": 50051, "prompt": 50052, "translation": 50053, "diffusion": 50054, llm: llm_port}
    for server, port in ports.items():
        clients = {one for one in names(overlay.workloads()) if allowed(overlay, one, server, port)}
        assert clients == ({"prompt"} if server == llm else {"gateway"}), server


def test_residency_is_for_owners_of_models(overlay: Overlay) -> None:
    if "residency" in names(overlay.workloads()):
        clients = {one for one in names(overlay.workloads()) if allowed(overlay, one, "residency", 50055)}
        assert clients == {"asr", "diffusion", "prompt", "gateway"}


def test_who_pulls_weights_reaches_a_hub(overlay: Overlay) -> None:
    (rule,) = overlay.named("NetworkPolicy", "weights")["spec"]["podSelector"]["matchExpressions"]
    pulling = [one for one in overlay.workloads() if "weights" in map(_name, pod_of(one).get("initContainers", []))]
    assert pulling
    assert set(names(pulling)) <= set(rule["values"])


def _name(container: dict[str, Any]) -> str:
    return str(container["name"])


def test_development_endpoints_are_closed(overlay: Overlay) -> None:
    for workload in overlay.workloads():
        assert "VLLM_SERVER_DEV_MODE" not in overlay.environment(workload), workload["metadata"]["name"]


def test_a_sleeping_llm_obeys_only_whom_residency_leases_it_to(tmp_path: Path) -> None:
    components = ["gpu", "vllm", "residency", "residency/llm-sleeps", "network-policies", "pod-security"]
    overlay = Overlay("llm-sleeps", render(with_components(tmp_path, components)))
    vllm, prompt = overlay.named("Deployment", "vllm"), overlay.named("Deployment", "prompt")

    assert overlay.environment(vllm)["VLLM_SERVER_DEV_MODE"] == "1"
    assert {one for one in names(overlay.workloads()) if allowed(overlay, one, "vllm", 8000)} == {"prompt"}
    assert overlay.environment(prompt)["NARRATIVE_PROMPT__RESIDENCY_TARGET"] == "dns:///residency:50055"
    assert allowed(overlay, "prompt", "residency", 50055)
    # A second holder would put the LLM to sleep under the first.
    assert prompt["spec"]["replicas"] == 1
    assert prompt["spec"]["strategy"] == {"type": "Recreate"}
    (beside,) = pod_of(prompt)["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert beside["labelSelector"]["matchLabels"] == {"app.kubernetes.io/name": "vllm"}
