"""Settings come from the environment, and a misspelt variable is refused."""

from importlib.metadata import entry_points

import pytest
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict

from narrative.settings import PROCESSES, CommonSettings, ServiceSettings, read_settings


class TinySettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="NARRATIVE_TINY__")

    max_batch_size: int = Field(1, ge=1)
    sizes: list[int] = Field([1])


@pytest.fixture(autouse=True)
def tiny_is_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("narrative.settings.PROCESSES", (*PROCESSES, "TINY"))


def test_all_processes_are_known_by_the_prefixes_of_their_settings() -> None:
    classes = [point.load() for point in entry_points(group="narrative.settings")]
    assert sorted(cls.model_config["env_prefix"] for cls in classes) == [f"NARRATIVE_{name}__" for name in PROCESSES]


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


@pytest.mark.parametrize(
    ("misspelt", "hint"),
    [
        ("NARRATIVE_DATADIR", "did you mean NARRATIVE_DATA_DIR"),
        ("NARRATIVE_DATABASE", "did you mean NARRATIVE_DATABASE_URL"),
        ("NARRATIVE_GATEWAY_PORT", "narrate config"),
        ("NARRATIVE_DIFUSION__MODELS", "did you mean NARRATIVE_DIFFUSION__MODELS?"),
        ("narrative_llm__port", "did you mean NARRATIVE_LLAMA__PORT?"),
        ("NARRATIVE_OTHER__PORT", "narrate config"),
    ],
)
def test_a_misspelt_variable_of_all_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], misspelt: str, hint: str
) -> None:
    monkeypatch.setenv(misspelt, "8080")

    for settings in (CommonSettings, TinySettings):
        with pytest.raises(SystemExit):
            read_settings(settings)
        said = capsys.readouterr().err
        assert f"{misspelt} is not a setting" in said
        assert hint in said
        assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NARRATIVE_DATABASE_URL", "postgresql://db/narratives"),
        ("NARRATIVE_URL", "http://127.0.0.1:8080"),
        ("NARRATIVE_API_KEY", "secret"),
        ("NARRATIVE_TRAINING", "{}"),
        ("NARRATIVE_GATEWAY__NO_SUCH_FIELD", "1"),
        # What Kubernetes tells every pod beside a Service of that name.
        ("NARRATIVE_PORT", "tcp://10.0.0.1:80"),
        ("NARRATIVE_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("NARRATIVE_PORT_80_TCP_PROTO", "tcp"),
        ("NARRATIVE_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("NARRATIVE_GATEWAY_SERVICE_PORT_HTTP", "80"),
    ],
)
def test_variables_of_others_are_let_be(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    TinySettings()


def test_a_wrong_value_for_all_processes_is_named_as_it_was_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NARRATIVE_LOG_LEVEL", "loud")

    with pytest.raises(SystemExit):
        read_settings(TinySettings)

    assert capsys.readouterr().err.startswith("NARRATIVE_LOG_LEVEL: ")
