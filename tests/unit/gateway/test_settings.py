from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.settings import GatewaySettings
from narrative.settings import CommonSettings


def test_other_machines_need_a_key() -> None:
    with pytest.raises(ValidationError, match="API_KEY_HASHES"):
        GatewaySettings(host="0.0.0.0")

    assert GatewaySettings(host="0.0.0.0", allow_anonymous=True).host == "0.0.0.0"
    assert GatewaySettings(host="0.0.0.0", api_key_hashes=["0" * 64]).host == "0.0.0.0"
    for loopback in ("127.0.0.1", "::1", "localhost"):
        assert GatewaySettings(host=loopback).api_key_hashes == []


@pytest.mark.parametrize(
    "bad",
    [
        {"api_key_hashes": ["secret"]},
        {"database_url": "mysql://x"},
        {"object_store_url": "s4://bucket"},
        {"object_store_url": "s3:/bucket"},
        {"executor_id": "a b"},
        {"port": 70000},
    ],
)
def test_bad_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GatewaySettings(**bad)


def test_the_database_has_a_name_without_the_gateway_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NARRATIVE_DATABASE_URL", "postgresql://db/narratives")
    assert GatewaySettings().database_url == "postgresql://db/narratives"

    monkeypatch.delenv("NARRATIVE_DATABASE_URL")
    embedded = GatewaySettings(common=CommonSettings(data_dir=tmp_path / "data"))
    assert embedded.database_url == f"sqlite:///{tmp_path}/data/narratives.db"
    assert embedded.object_store_url == f"{tmp_path}/data/objects"
