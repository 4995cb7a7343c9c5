"""Options that no overlay takes, each rendered with what it goes with."""

from pathlib import Path

import kubernetes_validate
import pytest

from tests.unit.deploy.rendering import KUBERNETES, ROOT, Overlay, allowed, names, pod_of, render, with_components

# Of KEDA's ScaledObject, whose schema the package index does not have; ours was checked against KEDA's own once.
SCALED_OBJECT_FIELDS = {
    "scaleTargetRef",
    "minReplicaCount",
    "maxReplicaCount",
    "pollingInterval",
    "cooldownPeriod",
    "advanced",
    "triggers",
}


def test_every_component_is_rendered_by_some_test() -> None:
    components = {path.name for path in (ROOT / "k8s" / "components").iterdir()}
    used = "".join(path.read_text() for path in (ROOT / "k8s" / "overlays").glob("*/kustomization.yaml"))

    assert components - {name for name in components if f"components/{name}\n" in used} == set(OPTIONAL)


OPTIONAL = {
    "triton": ["vllm", "s3", "network-policies"],
    "autoscaling-keda": ["gpu", "vllm"],
    "local-model-cache": ["llama"],
    "tracing": ["llama"],
}


@pytest.mark.parametrize("component", sorted(OPTIONAL))
def test_optional_components(component: str, tmp_path: Path) -> None:
    objects = render(with_components(tmp_path, [*OPTIONAL[component], component, "pod-security"]))
    overlay = Overlay(component, objects)

    for one in objects:
        if one["kind"] != "ScaledObject":
            kubernetes_validate.validate(one, KUBERNETES[-1], strict=True)
    if component == "autoscaling-keda":
        scaled = overlay.named("ScaledObject", "diffusion")["spec"]
        assert set(scaled) == SCALED_OBJECT_FIELDS
        assert "replicas" not in overlay.named("Deployment", scaled["scaleTargetRef"]["name"])["spec"]
        for trigger in scaled["triggers"]:
            assert {"serverAddress", "query", "threshold"} <= set(trigger["metadata"])
    if component == "local-model-cache":
        assert overlay.of("PersistentVolumeClaim") == []
        for name in ("asr", "diffusion", "llama"):
            volumes = {volume["name"]: volume for volume in pod_of(overlay.named("Deployment", name))["volumes"]}
            assert set(volumes["models"]) == {"name", "emptyDir"}
    if component == "triton":
        triton = overlay.named("Deployment", "triton")
        for name in ("asr", "diffusion"):
            front = overlay.named("Deployment", name)
            assert overlay.environment(front)[f"NARRATIVE_{name.upper()}__TRITON_URL"] == "triton:8001"
            assert overlay.environment(front)[f"NARRATIVE_{name.upper()}__ENGINE"] == "triton"
            assert "nvidia.com/gpu" not in pod_of(front)["containers"][0]["resources"]["limits"]
            # Fronts offer what is there to be worked with.
            models = f"NARRATIVE_{name.upper()}__MODELS"
            assert overlay.environment(front)[models] == overlay.environment(triton)[models]
        clients = {one for one in names(overlay.workloads()) if allowed(overlay, one, "triton", 8001)}
        assert clients == {"asr", "diffusion"}
        assert not [one for one in names(overlay.workloads()) if allowed(overlay, one, "triton", 8000)]
    if component == "tracing":
        environment = overlay.environment(overlay.named("Deployment", "asr"))
        assert environment["NARRATIVE_OTLP_ENDPOINT"].endswith(":4317")
