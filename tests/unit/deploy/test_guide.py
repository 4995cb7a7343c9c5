"""docs/deploy.md, as far as it can be followed without a cluster: its overlay is rendered, its Secrets are made."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import GatewaySettings
from tests.unit.deploy.dockerfile import images
from tests.unit.deploy.rendering import ROOT, Overlay, containers_of, pod_of, render

GUIDE = (ROOT / "docs" / "deploy.md").read_text()
KUBECTL = Path(sys.executable).with_name("kubectl")


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks of a section."""
    (section,) = [text for text in re.split(r"^##+ ", GUIDE, flags=re.MULTILINE) if text.startswith(heading)]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, dict[str, str]]:
    """What the commands of "Secrets" would make, by name; and the key that they show."""
    certificate = "openssl req -x509 -newkey rsa:2048 -nodes -keyout tls.key -out tls.crt -days 1 -subj /CN=x"
    script = blocks("3. Secrets", "sh")[0].replace("\\\n", " ")
    commands = [line.partition("  #")[0] for line in script.splitlines()]
    dry = [f"{line} --dry-run=client -o json" if line.startswith("kubectl") else line for line in commands]
    lines = "\n".join(["set -euo pipefail", f"{certificate} &>certificate.log", *dry])
    done = subprocess.run(
        ["bash", "-c", lines.replace("kubectl ", f"{KUBECTL} ")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, _, shown = done.stdout.partition("the API key: ")
    key, _, after = shown.partition("\n")
    made: dict[str, dict[str, str]] = {"key": {"key": key}}
    rest, decoder = before + after, json.JSONDecoder()
    while rest := rest.strip():
        one, end = decoder.raw_decode(rest)
        rest = rest[end:]
        if one["kind"] == "Secret":
            data = {name: base64.b64decode(value).decode() for name, value in one["data"].items()}
            made[one["metadata"]["name"]] = data
    return made


def test_the_secrets_are_those_that_the_overlays_mention(overlay: Overlay, secrets: dict[str, dict[str, str]]) -> None:
    for workload in overlay.workloads():
        for container in containers_of(workload):
            for entry in container.get("env", []):
                source: dict[str, Any] = entry.get("valueFrom", {}).get("secretKeyRef", {})
                if source and not source.get("optional"):
                    assert source["key"] in secrets[source["name"]], entry["name"]
            for entry in container.get("envFrom", []):
                assert "secretRef" not in entry or entry["secretRef"]["name"] in secrets
    for ingress in overlay.of("Ingress"):
        for tls in ingress["spec"]["tls"]:
            assert tls["secretName"] in secrets


def test_the_key_that_is_shown_is_the_key_that_opens(
    secrets: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARRATIVE_GATEWAY__API_KEY_HASHES", secrets["narrative-api-keys"]["hashes"])
    monkeypatch.setenv("NARRATIVE_DATABASE_URL", secrets["narrative-database"]["url"])
    monkeypatch.setenv("NARRATIVE_GATEWAY__OBJECT_STORE_URL", secrets["narrative-objects"]["url"])

    settings = GatewaySettings(host="0.0.0.0")

    assert settings.api_key_hashes == [hashlib.sha256(secrets["key"]["key"].encode()).hexdigest()]


def test_an_overlay_of_ones_own(tmp_path: Path) -> None:
    (text,) = blocks("What is there", "yaml")
    up = Path(*[".."] * len(tmp_path.resolve().parts[1:])) / ROOT.relative_to("/") / "k8s"
    changed = text.replace("../../components", f"{up}/components").replace("../cluster", f"{up}/overlays/cluster")
    (tmp_path / "kustomization.yaml").write_text(changed)

    overlay = Overlay("mine", render(tmp_path))

    (container,) = pod_of(overlay.named("StatefulSet", "gateway"))["containers"]
    assert container["image"] == "registry.example.org/narrative/gateway:0.1.0"
    (ingress,) = overlay.of("Ingress")
    assert ingress["spec"]["rules"][0]["host"] == "stories.example.org"
    assert overlay.environment(overlay.named("Deployment", "asr"))["NARRATIVE_OTLP_ENDPOINT"]


def test_every_image_is_named() -> None:
    built = " ".join(blocks("1. Images", "sh"))
    named = set(re.findall(r"[a-z]+", " ".join(re.findall(r"for name in ([a-z ]+);", built))))

    assert named | {"llama"} >= set(images())
