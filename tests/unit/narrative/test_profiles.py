"""Profiles: ports go where they belong, mistakes are named."""

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


def test_an_unknown_profile_names_the_known() -> None:
    with pytest.raises(NotFound, match="embedded"):
        load_profile("imaginary")


def test_a_malformed_profile_says_how(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("processes: []\n")

    with pytest.raises(InvalidParameter, match=r"odd\.yaml"):
        load_profile("odd", tmp_path)
