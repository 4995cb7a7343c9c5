"""Settings come from the environment, and a misspelt variable is refused."""

import pytest
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict

from narrative.settings import ServiceSettings, read_settings


class TinySettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="NARRATIVE_TINY__")

    max_batch_size: int = Field(1, ge=1)
    sizes: list[int] = Field([1])


def test_a_variable_sets_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARRATIVE_TINY__MAX_BATCH_SIZE", "4")

    assert TinySettings().max_batch_size == 4


def test_a_misspelt_variable_is_refused_with_the_right_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARRATIVE_TINY__MAX_BACH_SIZE", "4")

    with pytest.raises(ValidationError, match="did you mean NARRATIVE_TINY__MAX_BATCH_SIZE"):
        TinySettings()


def test_a_value_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARRATIVE_TINY__MAX_BATCH_SIZE", "0")

    with pytest.raises(ValidationError, match="max_batch_size"):
        TinySettings()


def test_a_process_ends_with_one_line_for_every_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NARRATIVE_TINY__MAX_BATCH_SIZE", "none")
    monkeypatch.setenv("NARRATIVE_TINY__PORT", "70000")

    with pytest.raises(SystemExit) as ended:
        read_settings(TinySettings)

    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert [line.split(":")[0] for line in lines] == ["NARRATIVE_TINY__PORT", "NARRATIVE_TINY__MAX_BATCH_SIZE"]


def test_a_list_that_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NARRATIVE_TINY__SIZES", "one, two")

    with pytest.raises(SystemExit) as ended:
        read_settings(TinySettings)

    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("NARRATIVE_TINY__SIZES: not JSON: Expecting value")
