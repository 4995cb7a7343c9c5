"""`narrate config`: every setting of every process, its value and what it means."""

import re
from importlib.metadata import entry_points
from typing import Annotated

import typer
from pydantic_settings import BaseSettings
from rich.table import Table
from rich.text import Text

from narrative.cli.console import err, print_table
from narrative.errors import NotFound
from narrative.settings import CommonSettings, read_settings

ENTRY_POINTS = "narrative.settings"
_HIDDEN = "•••"
_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^/\s]+@")


def config(
    process: Annotated[str, typer.Argument(help="Show one process only, for example diffusion.")] = "",
    changed: Annotated[
        bool, typer.Option("--changed", help="Show only settings that differ from the default.")
    ] = False,
) -> None:
    """Show the settings in force: environment variable, value, where that is from, and meaning.

    Each process registers its settings class as an entry point, so that this command imports no service by name.
    """
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    known = ["common", *sorted(points)]
    if process and process not in known:
        raise NotFound(f"no process {process!r}; there are {', '.join(known)}")
    for name in [process] if process else known:
        try:
            settings = CommonSettings if name == "common" else points[name].load()
        except ImportError as error:
            err.print(f"{name} is not installed here: {error}", style="yellow")
            continue
        table = settings_table(name, settings, changed)
        if table.row_count:
            print_table(table, last_below=True)


def settings_table(name: str, settings: type[BaseSettings], changed: bool) -> Table:
    """A table of one settings class; keys (fields without ``repr``) and passwords in URLs are hidden."""
    table = Table("variable", "value", "from", "meaning", title=name, title_justify="left")
    prefix = settings.model_config.get("env_prefix", "")
    values = read_settings(settings)
    for field_name, field in settings.model_fields.items():
        if field.exclude:
            continue
        value = getattr(values, field_name)
        is_set = field_name in values.model_fields_set
        # A default may follow from another setting, such as the data folder.
        is_default = not is_set or value == field.get_default(call_default_factory=True, validated_data={})
        if changed and is_default:
            continue
        shown = _HIDDEN if value and not field.repr else _PASSWORD.sub(rf"\1{_HIDDEN}@", str(value))
        variable = f"{prefix}{field_name}".upper()
        origin = "environment" if is_set else "default"
        table.add_row(variable, Text(shown, "" if is_default else "bold"), origin, field.description or "")
    return table
