"""The Dockerfile and the compose files, as far as they can be checked without a container engine."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from tests.unit.deploy.dockerfile import DOCKERFILE, ROOT, images, stages
from tests.unit.deploy.rendering import Overlay, containers_of

BIN = Path(sys.executable).parent
IMAGES = images()
COMPOSE = ROOT / "deploy" / "compose.embedded.yaml"
ON_TOP = ["", "compose.single-gpu.yaml", "compose.observability.yaml"]


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([BIN / "hadolint", DOCKERFILE], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_safe_to_run_and_says_what_it_is(name: str) -> None:
    image = IMAGES[name]

    assert image.last("USER") == "10001:10001"
    assert image.labels["org.opencontainers.image.title"] == f"colorized-narrative/{name}"
    assert {"org.opencontainers.image.version", "org.opencontainers.image.revision"} <= set(image.labels)
    assert image.all("HEALTHCHECK")
    assert f"--from=install-{name} /opt/narrative /opt/narrative" in image.all("COPY")


def test_the_base_image_is_pinned() -> None:
    assert re.search(r"^ARG PYTHON=3\.\d+\.\d+-", DOCKERFILE.read_text(), re.MULTILINE)


def extras_of(image: str) -> list[str]:
    """What `pip install .[...]` of an image names."""
    (command,) = [run for run in stages()[f"install-{image}"].all("RUN") if "requirements.lock" in run]
    found = re.search(r"'\.\[([a-z,]+)\]'", command)
    assert found, command
    return found[1].split(",")


@pytest.mark.parametrize("name", IMAGES)
def test_every_image_is_installed_from_an_extra_under_the_lock(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert set(extras_of(name)) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("name", ["gateway", "prompt", "llama", "models", "residency"])
def test_small_images_bring_no_torch(name: str) -> None:
    brought = closure([Requirement(f"colorized-narrative[{','.join(extras_of(name))}]")])

    assert {"grpcio", "pydantic"} <= brought
    assert not {"torch", "transformers", "ctranslate2"} & brought


def closure(roots: list[Requirement]) -> set[str]:
    """Names of all distributions that requirements bring, by the metadata of what is installed here."""
    seen: set[tuple[str, str]] = set()
    waiting = [(root.name, extra) for root in roots for extra in ("", *root.extras)]
    while waiting:
        name, extra = waiting.pop()
        key = (re.sub(r"[-_.]+", "-", name).lower(), extra)
        if key in seen:
            continue
        seen.add(key)
        for text in requires(name) or ():
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                waiting += [(one.name, wanted) for wanted in ("", *one.extras)]
    return {name for name, _ in seen}


@pytest.mark.parametrize("name", IMAGES)
def test_variables_of_an_image_are_settings(name: str) -> None:
    processes = [entry.load() for entry in entry_points(group="narrative.settings")]
    known = {
        f"{process.model_config['env_prefix']}{field}".upper()
        for process in processes
        for field in process.model_fields
    }
    ours = {key for key in IMAGES[name].environment if re.match(r"NARRATIVE_[A-Z]+__", key)}

    assert ours <= known


def test_what_the_cluster_runs_is_built_here(overlay: Overlay) -> None:
    used = {
        container["image"].partition(":")[0].removeprefix("colorized-narrative/")
        for workload in overlay.workloads()
        for container in containers_of(workload)
        if container["image"].startswith("colorized-narrative/")
    }

    assert used <= set(IMAGES)
    assert {"gateway", "asr", "prompt", "translation", "diffusion", "models"} <= used


def composed(on_top: str) -> dict[str, Any]:
    files = ["-f", str(COMPOSE), *(["-f", str(COMPOSE.with_name(on_top))] if on_top else [])]
    done = subprocess.run(
        [BIN / "docker-compose", *files, "config", "--format=json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


@pytest.mark.parametrize("on_top", ON_TOP)
def test_compose_files(on_top: str, monkeypatch: pytest.MonkeyPatch) -> None:
    services = composed(on_top)["services"]

    for name, service in services.items():
        _, _, tag = service["image"].partition(":")
        assert tag
        assert tag != "latest"
        for port in service.get("ports", ()):
            assert port["host_ip"] == "127.0.0.1", name
        if "build" in service:
            assert service["build"]["target"] in IMAGES
            assert Path(service["build"]["context"], service["build"]["dockerfile"]) == DOCKERFILE
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
    processes = {entry.name: entry for entry in entry_points(group="narrative.settings")}
    for process, deployed in (("gateway", "gateway"), ("asr", "asr"), ("prompt", "prompt"), ("diffusion", "diffusion")):
        with monkeypatch.context() as patch:
            # What compose leaves out comes from the image.
            for key, value in {**IMAGES[deployed].environment, **services[deployed].get("environment", {})}.items():
                if key.startswith("NARRATIVE_"):
                    patch.setenv(key, value)
            settings = processes[process].load()()
            assert settings.host == "0.0.0.0"
            # Everything is written to volumes, and adapters to one that all share.
            mounted = {volume["target"]: volume["source"] for volume in services[deployed].get("volumes", ())}
            if process != "prompt":
                assert mounted[str(settings.object_store_url)] == "objects"
                assert str(settings.common.data_dir) in mounted


def test_the_board_asks_for_metrics_that_there_are() -> None:
    from prometheus_client import REGISTRY

    import gateway.workflow  # noqa: F401  registers what the gateway counts

    known = {sample for family in REGISTRY.collect() for sample in _samples_of(family)}
    board = json.loads((ROOT / "deploy/observability/grafana/boards/narrative.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"narrative_\w+", target["expr"])
    }
    asked |= set(
        re.findall(r"narrative_\w+", (ROOT / "k8s/components/autoscaling-keda/scaled-object.yaml").read_text())
    )
    rule = yaml.safe_load((ROOT / "k8s/components/autoscaling-hpa/prometheus-adapter.yaml").read_text())
    asked |= set(re.findall(r"narrative_\w+", rule["rules"]["custom"][0]["metricsQuery"]))

    assert len(asked) >= 6
    assert asked <= known


def _samples_of(family: Any) -> set[str]:
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}.get(family.type, [])
    return {family.name + suffix for suffix in suffixes}


def test_prometheus_asks_the_ports_that_answer() -> None:
    services = composed("compose.observability.yaml")["services"]
    read = yaml.safe_load((ROOT / "deploy/observability/prometheus.yaml").read_text())
    (looked_up,) = read["scrape_configs"][1]["dns_sd_configs"]

    for name in looked_up["names"]:
        assert services[name]["environment"][f"NARRATIVE_{name.upper()}__METRICS_PORT"] == str(looked_up["port"])
