"""The settings that READMEs tell of are those of the settings classes, with the defaults that these have."""

import json
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SETTINGS = {entry.name: entry.load() for entry in entry_points(group="narrative.settings")}
READMES = {
    process: path
    for process in SETTINGS
    if (path := ROOT / ("" if process == "gateway" else "services") / process / "README.md").exists()
}
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "h": 3600}


def rows(readme: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Names and defaults in the rows of the table of settings."""
    text = readme.read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    for line in re.findall(r"^\|(.*)\|$", text, re.MULTILINE):
        named, default = line.split("|")[:2]
        if names := re.findall(r"`([A-Za-z0-9_]+)`", named):
            yield [name.lower() for name in names if not name.startswith("NARRATIVE_")], _parts(default.strip())


def _parts(default: str) -> list[str]:
    return [default.strip("`")] if default.startswith("`[") else [part.strip("`") for part in default.split(", ")]


def is_default(said: str, value: Any) -> bool:
    """Whether a README's word for a default is true; where the default is empty, any words say what is done then."""
    if said == "none" or value in ("", None):
        return not value and not re.match(r"\d|\[", said)
    if match := re.fullmatch(r"([\d.]+) (\w+)", said):
        return bool(float(match[1]) * UNITS[match[2]] == value)
    if isinstance(value, bool | list | dict | int | float):
        try:
            return bool(json.loads(said) == value)
        except ValueError:
            return False
    return said == str(value)


@pytest.mark.parametrize("process", sorted(READMES))
def test_settings_of_a_readme_are_settings_with_these_defaults(process: str) -> None:
    fields = SETTINGS[process].model_fields
    wrong, table = [], list(rows(READMES[process]))
    assert table
    for names, defaults in table:
        for name, said in zip(names, defaults, strict=True):
            if name not in fields:
                wrong.append(f"{name} is no setting")
            # A factory's default depends on the machine.
            elif fields[name].default_factory is None and not is_default(said, fields[name].default):
                wrong.append(f"{name} is {fields[name].default!r}, not {said}")
    assert wrong == []


def test_the_gateway_s_readme_tells_every_limit() -> None:
    told = {name for names, _ in rows(READMES["gateway"]) for name in names}
    limits = {name for name in SETTINGS["gateway"].model_fields if name.startswith("max_")}
    assert limits - told == set()


def test_variables_in_documents_are_settings() -> None:
    known = {
        f"{settings.model_config['env_prefix']}{name}".upper()
        for settings in SETTINGS.values()
        for name in settings.model_fields
    }
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md"), *READMES.values()]

    assert {
        f"{document.relative_to(ROOT)}: {variable}"
        for document in documents
        for variable in re.findall(r"NARRATIVE_[A-Z0-9]+__[A-Z0-9_]*[A-Z0-9]\b(?! is not a)", document.read_text())
        if variable not in known
    } == set()
