"""Profiles: ports go where they belong, mistakes are named."""

import tomllib
from pathlib import Path

import pytest

from narrative.errors import InvalidParameter, NotFound
from narrative.profiles import load_profile


def test_the_embedded_profile_tells_the_gateway_every_port() -> None:
    profile = load_profile("embedded")
    ports = {name: 50000 + number for number, name in enumerate(profile.processes)}

    environment = profile.environment_for(ports)

    assert environment["NARRATIVE_GATEWAY__ASR_TARGET"] == f"127.0.0.1:{ports['asr']}"
    assert environment["NARRATIVE_ASR__PORT"] == str(ports["asr"])
    assert not [value for value in environment.values() if "{" in value]


def test_what_the_profile_of_a_gpu_needs_beside_the_ordinary_installation_is_said() -> None:
    root = Path(__file__).parents[3]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    diarizer = load_profile("single-gpu").environment["NARRATIVE_ASR__DIARIZER"]
    assert diarizer in extras
    assert diarizer not in "".join(extras["embedded"])
    for said in ("docs/deploy.md", "deploy/profiles/single-gpu.yaml"):
        assert f"'.[embedded,{diarizer}]'" in (root / said).read_text()


def test_an_unknown_profile_names_the_known() -> None:
    with pytest.raises(NotFound, match="embedded"):
        load_profile("imaginary")


def test_a_malformed_profile_says_how(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("processes: []\n")

    with pytest.raises(InvalidParameter, match=r"odd\.yaml"):
        load_profile("odd", tmp_path)
