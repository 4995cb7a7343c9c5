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
from services.diffusion.settings import DiffusionSettings
from tests.unit.deploy.rendering import ROOT, Overlay, pod_of

# What cards that are called so show as their memory, the least first: T4, A10 and L4, A40 and L40S, A100.
CARDS = {
    "16gb": ("15GiB", "16GB", "16GiB"),
    "24gb": ("22.5GiB", "24GB", "24GiB"),
    "48gb": ("44.5GiB", "48GB", "48GiB"),
    "80gb": ("79GiB", "80GB", "80GiB"),
}
SIZES = [size for size in CARDS if size != "16gb"]
LLM = "qwen2.5-3b-instruct"
GUIDE = ROOT / "docs" / "deploy.md"


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


def guide(size: str) -> dict[str, str]:
    """The row of docs/deploy.md for a size of card."""
    lines = [line.strip("|").split("|") for line in GUIDE.read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line] for line in lines]
    (head,) = [row for row in rows if row[0] == "card"]
    (row,) = [row for row in rows if row[0].replace(" ", "").lower() == size]
    return dict(zip(head, row, strict=True))


@pytest.mark.parametrize("gpu", [gpu for size in SIZES for gpu in CARDS[size]])
def test_the_share_is_one_that_the_plan_allows(gpu: str) -> None:
    (size,) = [size for size in SIZES if gpu in CARDS[size]]
    plan, llm, total = plan_for(gpu)
    least, _ = shares(llm, plan, total)
    share = float(of_compose(size)["LLM_GPU_SHARE"])
    assert least <= share
    # The others have room for the largest of them, and where the guide says that they stay, for all.
    others = [turn.num_bytes for turn in load_profile("single-gpu").turns if turn.model != LLM]
    room = (1 - share) * total - RESERVE_BYTES
    assert max(others) <= room
    says = guide(size)
    assert says["vLLM's share"] == f"{share:.2f}"
    if says["the others"] == "stay":
        assert not plan.swaps
        assert sum(others) <= room


def test_what_takes_turns_on_cards_of_24_gb_is_what_the_plan_and_the_guide_say() -> None:
    plan, llm, total = plan_for(CARDS["24gb"][0])
    share = float(of_compose("24gb")["LLM_GPU_SHARE"])
    assert {turn.model for turn in plan.swaps} == {"whisper-large-v3", "sdxl-base"}
    assert share == shares(llm, plan, total)[0]
    assert guide("24gb")["the others"] == "Whisper and SDXL by turns; both stay on 24 GiB"
    # Only what is small makes room for them there.
    plan, _, total = plan_for("24GiB")
    both = sum(turn.num_bytes for turn in plan.stays if turn.model in {"whisper-large-v3", "sdxl-base"})
    assert both <= (1 - share) * total - RESERVE_BYTES


def test_on_the_smallest_the_llm_sleeps_as_the_plan_says() -> None:
    plan, llm, total = plan_for(CARDS["16gb"][0], llm_sleeps=True)
    services = composed(f"--env-file={ROOT / 'deploy' / 'gpu' / '16gb.env'}")
    share, _ = shares(llm, plan, total)
    assert {turn.model for turn in plan.swaps} == {"whisper-large-v3", LLM, "sdxl-base"}
    assert guide("16gb")["vLLM's share"] == f"{share:.2f}, asleep by turns"
    assert guide("16gb")["the others"] == "Whisper and SDXL by turns"
    assert {f"--gpu-memory-utilization={share}", "--enable-sleep-mode"} <= set(services["llama"]["command"])
    assert services["llama"]["environment"]["VLLM_SERVER_DEV_MODE"] == "1"
    assert "ports" not in services["llama"]
    prompt = services["prompt"]["environment"]
    assert prompt["NARRATIVE_PROMPT__RESIDENCY_TARGET"] == "dns:///residency:50055"


@pytest.mark.parametrize("gpu", CARDS["16gb"])
def test_on_the_smallest_nothing_is_too_large_for_its_turn(gpu: str) -> None:
    _, llm, total = plan_for(gpu, llm_sleeps=True)
    services = composed(f"--env-file={ROOT / 'deploy' / 'gpu' / '16gb.env'}")
    prompt, residency = (services[name]["environment"] for name in ("prompt", "residency"))
    booked = int(TypeAdapter(ByteSize).validate_python(prompt["NARRATIVE_PROMPT__RESIDENCY_BYTES"]))
    share = float(of_compose("16gb")["LLM_GPU_SHARE"])
    # Booked is no less than vLLM may take, and that no less than it needs.
    assert llm.num_bytes <= share * total <= booked
    needs = {turn.model: turn.num_bytes for turn in load_profile("single-gpu").turns} | {LLM: booked}
    pinned = json.loads(residency.get("NARRATIVE_RESIDENCY__PINNED", "[]"))
    kept = sum(needs[model] for model in pinned)
    assert max(needs[model] for model in needs.keys() - set(pinned)) + kept <= total - RESERVE_BYTES


def test_on_the_smallest_kubernetes_has_the_same_settings() -> None:
    component = ROOT / "k8s" / "components" / "residency" / "llm-sleeps" / "kustomization.yaml"
    maps = {one["name"]: values(one["literals"]) for one in yaml.safe_load(component.read_text())["configMapGenerator"]}
    chosen = of_compose("16gb")
    assert maps["llm"] == {name: chosen[name] for name in ("LLM_GPU_SHARE", "LLM_MAX_NUM_SEQS")}
    assert maps["prompt"]["NARRATIVE_PROMPT__RESIDENCY_BYTES"] == chosen["LLM_RESIDENCY_BYTES"]
    assert maps["prompt"]["NARRATIVE_PROMPT__MAX_WORKERS"] == chosen["LLM_MAX_NUM_SEQS"]
    assert maps["residency"] == {"NARRATIVE_RESIDENCY__PREFETCH": chosen["RESIDENCY_PREFETCH"]}
    assert maps["gateway"] == {"NARRATIVE_GATEWAY__MAX_CONCURRENT_SPEAKERS": chosen["MAX_CONCURRENT_SPEAKERS"]}


def test_a_llm_that_sleeps_is_brought_in_before_the_pictures() -> None:
    services = composed(f"--env-file={ROOT / 'deploy' / 'gpu' / '16gb.env'}")
    prefetch = json.loads(services["residency"]["environment"]["NARRATIVE_RESIDENCY__PREFETCH"])
    # A lease on a server has the name of its model.
    llm = services["prompt"]["environment"]["NARRATIVE_PROMPT__LLM_MODEL"]
    assert prefetch == {"whisper-large-v3": [llm], llm: ["sdxl-base"]}
    staying = json.loads(composed()["residency"]["environment"]["NARRATIVE_RESIDENCY__PREFETCH"])
    assert staying == {"whisper-large-v3": ["sdxl-base"]}


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


@pytest.mark.parametrize("size", CARDS)
def test_as_many_are_let_in_as_the_llm_serves_and_the_pictures_bear(size: str) -> None:
    services = composed(f"--env-file={ROOT / 'deploy' / 'gpu' / f'{size}.env'}")
    prompt, gateway = (services[name]["environment"] for name in ("prompt", "gateway"))
    assert prompt["NARRATIVE_PROMPT__MAX_WORKERS"] == prompt["NARRATIVE_PROMPT__LLM_MAX_CONCURRENCY"]
    speakers = int(gateway["NARRATIVE_GATEWAY__MAX_CONCURRENT_SPEAKERS"])
    assert speakers == int(of_compose(size)["MAX_CONCURRENT_SPEAKERS"])
    assert speakers <= int(prompt["NARRATIVE_PROMPT__MAX_WORKERS"])
    assert speakers <= DiffusionSettings.model_fields["max_queue"].default


def test_compose_tells_the_gateway_where_the_books_are() -> None:
    services = composed()
    assert services["gateway"]["environment"]["NARRATIVE_GATEWAY__RESIDENCY_TARGET"] == "dns:///residency:50055"
    assert services["gateway"]["networks"].keys() & services["residency"]["networks"].keys()


@pytest.mark.parametrize("where", ["compose", "profile"])
def test_a_gpu_on_one_machine_is_used_as_kubernetes_uses_it(where: str) -> None:
    components = (ROOT / "k8s" / "components" / name / "kustomization.yaml" for name in ("gpu", "vllm"))
    maps = [one for file in components for one in yaml.safe_load(file.read_text())["configMapGenerator"]]
    chosen = {key: value for one in maps for key, value in values(one["literals"]).items()}
    if where == "compose":
        found = {key: value for one in composed().values() for key, value in one.get("environment", {}).items()}
    else:
        found = load_profile("single-gpu").environment
    for name in (
        "NARRATIVE_ASR__COMPUTE_TYPE",
        "NARRATIVE_ASR__BATCH_SIZE",
        "NARRATIVE_ASR__BEAM_SIZE",
        "NARRATIVE_PROMPT__LANGUAGES",
        "NARRATIVE_PROMPT__WORDING",
        "NARRATIVE_PROMPT__MAX_TEXT_CHARS",
    ):
        assert found[name] == chosen[name]


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
    assert maps["prompt"] == {
        "NARRATIVE_PROMPT__LLM_MAX_CONCURRENCY": maps["llm"]["LLM_MAX_NUM_SEQS"],
        "NARRATIVE_PROMPT__MAX_WORKERS": maps["llm"]["LLM_MAX_NUM_SEQS"],
    }
    assert maps["gateway"] == {
        "NARRATIVE_GATEWAY__MAX_CONCURRENT_SPEAKERS": of_compose(size)["MAX_CONCURRENT_SPEAKERS"]
    }


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
