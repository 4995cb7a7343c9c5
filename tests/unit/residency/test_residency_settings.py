"""Settings of the residency service that could not work are refused."""

import pytest

from narrative.settings import read_settings
from services.residency.settings import ResidencySettings


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("DEVICES", '{"": "2GiB"}', "'' is no device; devices are named host:0, host:1 or cuda:0, cuda:1"),
        ("DEVICES", '{"gpu0": "2GiB"}', "'gpu0' is no device"),
        ("DEVICES", '{"host:0": 0}', "host:0 has no room for any model; a budget is bytes or a size like 2GiB"),
        ("OWNER_TIMEOUT_S", "2", "2 s is no longer than heartbeat_s (2 s)"),
    ],
    ids=["no name", "a name that no engine knows", "no memory", "dead before the first heartbeat"],
)
def test_what_cannot_work_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str, said: str
):
    monkeypatch.setenv(f"NARRATIVE_RESIDENCY__{variable}", value)
    with pytest.raises(SystemExit):
        read_settings(ResidencySettings)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"NARRATIVE_RESIDENCY__{variable}: {said}")


def test_a_heartbeat_that_is_too_slow_is_refused_against_the_default_timeout_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NARRATIVE_RESIDENCY__HEARTBEAT_S", "20")
    with pytest.raises(ValueError, match="10 s is no longer than heartbeat_s \\(20 s\\)"):
        ResidencySettings()


def test_declared_devices_may_stand_for_gpus():
    assert set(ResidencySettings(devices={"cuda:0": "2GiB", "host:11": 1}).devices) == {"cuda:0", "host:11"}
