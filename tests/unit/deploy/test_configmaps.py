"""ConfigMaps are read by the very settings classes that the processes read them with."""

import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from narrative.catalogue import Catalogue
from narrative.settings import CommonSettings, ProcessSettings, ServiceSettings
from tests.unit.deploy.rendering import Overlay, pod_of, render, with_components

PROCESSES = {entry.name: entry for entry in entry_points(group="narrative.settings")}
# The deployment of a process where it is not called like its settings.
DEPLOYED_AS = {"llm": "llama"}
SECRETS = {
    "NARRATIVE_GATEWAY__API_KEY_HASHES": f'["{"0" * 64}"]',
    "NARRATIVE_DATABASE_URL": "postgresql://user@host/narrative",
    **{f"NARRATIVE_{name}__OBJECT_STORE_URL": "s3://bucket/prefix" for name in ("GATEWAY", "ASR", "DIFFUSION")},
    "NARRATIVE_GATEWAY__EXECUTOR_ID": "gateway-0",
}


def settings_in(overlay: Overlay, process: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The settings of a process, read from what its container gets and nothing else; None where it is not deployed."""
    name = DEPLOYED_AS.get(process, process)
    found = [one for one in overlay.workloads() if one["metadata"]["name"] == name]
    if not found:
        return None
    (workload,) = found
    for variable in list(os.environ):
        if variable.startswith("NARRATIVE_"):
            monkeypatch.delenv(variable)
    values = overlay.environment(workload)
    for entry in pod_of(workload)["containers"][0].get("env", []):
        if "valueFrom" in entry and entry["name"].startswith("NARRATIVE_"):
            values[entry["name"]] = SECRETS[entry["name"]]
    for variable, value in values.items():
        monkeypatch.setenv(variable, value)
    return PROCESSES[process].load()()


@pytest.mark.parametrize("process", ["asr", "diffusion", "gateway", "llm", "prompt", "residency", "translation"])
def test_settings_are_accepted(overlay: Overlay, process: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: ProcessSettings | None = settings_in(overlay, process, monkeypatch)
    deployed = {one["metadata"]["name"]: one for one in overlay.workloads()}
    if settings is None:
        assert process in ("llm", "residency")
        assert process == "residency" or "vllm" in deployed
        return
    pod = pod_of(deployed[DEPLOYED_AS.get(process, process)])
    ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}

    assert settings.host == "0.0.0.0"
    assert settings.port == ports.get("grpc", ports.get("http"))
    assert settings.common.log_format == "json"
    if isinstance(settings, ServiceSettings):
        assert settings.metrics_port == ports["metrics"]
        # A connection to residency lasts as long as the owner.
        assert settings.max_connection_age_s <= 60 or process == "residency"
    if process != "llm":
        assert pod["terminationGracePeriodSeconds"] > settings.drain_s


def test_variables_shared_by_all_are_settings(overlay: Overlay) -> None:
    known = {f"NARRATIVE_{name}".upper() for name in CommonSettings.model_fields}
    (common,) = [one for one in overlay.of("ConfigMap") if one["metadata"]["name"].startswith("common-")]

    assert {name for name in common["data"] if name.startswith("NARRATIVE_")} <= known


def test_the_gateway_calls_services_that_there_are(overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in(overlay, "gateway", monkeypatch)
    for name in ("asr", "prompt", "translation", "diffusion"):
        (port,) = [one["port"] for one in overlay.named("Service", name)["spec"]["ports"] if one["name"] == "grpc"]
        assert getattr(settings, f"{name}_target") == f"dns:///{name}:{port}"


def test_prompt_calls_an_llm_that_there_is(overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in(overlay, "prompt", monkeypatch)
    (port,) = [entry["port"] for entry in overlay.named("Service", "llm")["spec"]["ports"]]

    assert settings.llm_url == f"http://llm:{port}/v1"
    if port == 8000:
        arguments = pod_of(overlay.named("Deployment", "vllm"))["containers"][0]["args"]
        assert f"--served-model-name={settings.llm_model}" in arguments


def test_weights_are_pulled_before_they_are_loaded(overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = Catalogue()
    wanted = {
        "asr": lambda s: [*s.models, s.speaker_model],
        "diffusion": lambda s: s.models,
        "llm": lambda s: [s.model],
    }
    for process, models_of in wanted.items():
        settings = settings_in(overlay, process, monkeypatch)
        if settings is None:
            continue
        pod = pod_of(overlay.named("Deployment", DEPLOYED_AS.get(process, process)))
        pulled = [name for one in pod.get("initContainers", []) for name in one["args"][2:]]
        here = [name for name in models_of(settings) if catalogue.entry(name).source.kind == "path"]
        assert set(models_of(settings)) - set(here) == set(pulled)


def test_what_runs_on_triton_reads_its_settings_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    overlay = Overlay("triton", render(with_components(tmp_path, ["triton", "vllm", "s3"])))
    for process in ("asr", "diffusion"):
        front = settings_in(overlay, process, monkeypatch)
        monkeypatch.setitem(DEPLOYED_AS, process, "triton")
        behind = settings_in(overlay, process, monkeypatch)

        assert front.engine == "triton"
        assert front.models == behind.models
        assert behind.objects_url == front.objects_url == "s3://bucket/prefix"


def test_a_misspelt_variable_would_be_found(overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARRATIVE_ASR__MODEL", "whisper-base")

    with pytest.raises(ValueError, match="did you mean NARRATIVE_ASR__MODELS"):
        PROCESSES["asr"].load()()


# Residency is where models share a GPU, and a training runs once, not as a service.
NOT_DEPLOYED = {"residency", "trainer"}


def test_every_process_is_deployed(overlay: Overlay) -> None:
    deployed = {one["metadata"]["name"] for one in overlay.workloads()} - {"vllm"}

    assert deployed | {"llama"} >= {DEPLOYED_AS.get(name, name) for name in PROCESSES if name not in NOT_DEPLOYED}
