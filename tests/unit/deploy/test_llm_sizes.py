"""The LLM's share of a GPU, for each size of card: compose, Kubernetes and `narrate plan` agree."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ByteSize, TypeAdapter

from narrative.cli.plan import RESERVE_BYTES, Plan, make_plan, shares
from narrative.profiles import Turn, load_profile
from tests.unit.deploy.rendering import ROOT, Overlay, pod_of

SIZES = {"24gb": "24GiB", "48gb": "48GiB", "80gb": "80GB"}
LLM = "qwen2.5-3b-instruct"


def values(lines: list[str]) -> dict[str, str]:
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def of_compose(size: str) -> dict[str, str]:
    return values((ROOT / "deploy" / "gpu" / f"{size}.env").read_text().splitlines())


def composed(*options: str) -> dict[str, Any]:
    deploy = ROOT / "deploy"
    files = [f"--file={deploy / name}" for name in ("compose.embedded.yaml", "compose.single-gpu.yaml")]
    compose = Path(sys.executable).with_name("docker-compose")
    done = subprocess.run([compose, *options, *files, "config", "--format=json"], capture_output=True, check=True)
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


def plan_for(gpu: str, *, llm_sleeps: bool = False) -> tuple[Plan, Turn, int]:
    """The plan, the LLM in it, and the bytes of the GPU."""
    total = int(TypeAdapter(ByteSize).validate_python(gpu))
    turns = load_profile("single-gpu").turns
    if llm_sleeps:
        turns = [turn.model_copy(update={"stays": False}) for turn in turns]
    (llm,) = [turn for turn in turns if turn.model == LLM]
    return make_plan(turns, total - RESERVE_BYTES), llm, total


@pytest.mark.parametrize(("size", "gpu"), SIZES.items())
def test_the_share_is_one_that_the_plan_allows(size: str, gpu: str) -> None:
    plan, llm, total = plan_for(gpu)
    least, most = shares(llm, plan, total)
    assert not plan.swaps
    assert least <= float(of_compose(size)["LLM_GPU_SHARE"]) <= most


def test_on_the_smallest_the_llm_sleeps_as_the_plan_says() -> None:
    plan, llm, total = plan_for("16GiB", llm_sleeps=True)
    services = composed(f"--env-file={ROOT / 'deploy' / 'gpu' / '16gb.env'}")
    share, _ = shares(llm, plan, total)
    assert llm in plan.swaps
    assert {f"--gpu-memory-utilization={share}", "--enable-sleep-mode"} <= set(services["llama"]["command"])
    assert services["llama"]["environment"]["VLLM_SERVER_DEV_MODE"] == "1"
    assert "ports" not in services["llama"]
    prompt, residency = (services[name]["environment"] for name in ("prompt", "residency"))
    # Booked is no less than vLLM may take.
    booked = int(TypeAdapter(ByteSize).validate_python(prompt["NARRATIVE_PROMPT__RESIDENCY_BYTES"]))
    assert share * total <= booked <= llm.num_bytes + plan.left_bytes
    assert prompt["NARRATIVE_PROMPT__RESIDENCY_TARGET"] == "dns:///residency:50055"
    assert json.loads(residency["NARRATIVE_RESIDENCY__PINNED"]) == [turn.model for turn in plan.stays]


@pytest.mark.parametrize("size", SIZES)
def test_compose_hands_the_settings_to_vllm(size: str) -> None:
    services = composed(f"--env-file={ROOT / 'deploy' / 'gpu' / f'{size}.env'}")
    chosen = of_compose(size)
    command = services["llama"]["command"]
    assert f"--gpu-memory-utilization={chosen['LLM_GPU_SHARE']}" in command
    assert f"--max-num-seqs={chosen['LLM_MAX_NUM_SEQS']}" in command
    assert "--enable-prefix-caching" in command
    environment = services["prompt"]["environment"]
    assert environment["NARRATIVE_PROMPT__LLM_MAX_CONCURRENCY"] == chosen["LLM_MAX_NUM_SEQS"]


def test_a_llm_that_stays_hides_its_development_endpoints() -> None:
    services = composed()
    assert services["llama"]["environment"]["VLLM_SERVER_DEV_MODE"] == "0"
    assert services["prompt"]["environment"]["NARRATIVE_PROMPT__RESIDENCY_TARGET"] == ""


def test_without_a_size_compose_is_for_24_gb() -> None:
    assert composed() == composed(f"--env-file={ROOT / 'deploy' / 'gpu' / '24gb.env'}")


@pytest.mark.parametrize("size", SIZES)
def test_kubernetes_has_the_same_settings(size: str) -> None:
    component = ROOT / "k8s" / "components" / "vllm" / f"shared-{size}" / "kustomization.yaml"
    maps = {one["name"]: values(one["literals"]) for one in yaml.safe_load(component.read_text())["configMapGenerator"]}
    assert maps["llm"].items() <= of_compose(size).items()
    assert maps["prompt"] == {"NARRATIVE_PROMPT__LLM_MAX_CONCURRENCY": maps["llm"]["LLM_MAX_NUM_SEQS"]}


def test_what_vllm_is_told_comes_from_its_config_map(overlay: Overlay) -> None:
    found = [one for one in overlay.workloads() if one["metadata"]["name"] == "vllm"]
    for vllm in found:
        (container,) = pod_of(vllm)["containers"]
        environment = overlay.environment(vllm)
        told = [argument.partition("=")[2] for argument in container["args"] if "$(" in argument]
        assert {name.removeprefix("$(").removesuffix(")") for name in told} <= set(environment)
        assert 0 < float(environment["LLM_GPU_SHARE"]) < 1
        assert "--enable-prefix-caching" in container["args"]
        if overlay.name == "single-node":
            assert environment["LLM_GPU_SHARE"] == of_compose("24gb")["LLM_GPU_SHARE"]
