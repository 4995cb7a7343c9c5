"""`narrate models`: the weights catalogue."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from narrative.catalogue import Catalogue, HubSource, ModelEntry, PackageSource
from narrative.cli.console import err, out, print_table
from narrative.errors import NarrativeError, WeightsMissing
from narrative.settings import CommonSettings, read_settings
from narrative.weights import pull

app = typer.Typer(no_args_is_help=True)
ProfileOption = Annotated[str, typer.Option(help="Take the models of this profile.")]
Names = Annotated[list[str] | None, typer.Argument(help="Models by catalogue id; without any, those of the profile.")]


@app.command("list")
def list_models() -> None:
    """Show every model of the catalogue, where its weights come from and whether they are here."""
    catalogue, folder = Catalogue(), read_settings(CommonSettings).models_dir
    table = Table("model", "task", "size", "licence", "profiles", "here", "from")
    for entry in catalogue:
        size = f"{entry.size_bytes / 1e6:,.0f} MB" if entry.size_bytes else "?"
        here = "yes" if catalogue.location(entry, folder).is_dir() else "no"
        table.add_row(entry.id, entry.task, size, entry.licence, ", ".join(entry.profiles), here, _origin(entry))
    print_table(table, last_below=True)


@app.command("pull")
def pull_models(names: Names = None, profile: ProfileOption = "embedded") -> None:
    """Fetch weights, check them against their digests, and put them in place. Does nothing where they are here."""
    pull_all(_select(names, profile))


@app.command("verify")
def verify_models(names: Names = None, profile: ProfileOption = "embedded") -> None:
    """Read every weights file and check it against its digest."""
    catalogue, folder = Catalogue(), read_settings(CommonSettings).models_dir
    failed = False
    for entry in _select(names, profile):
        try:
            catalogue.verify(entry, folder, thorough=True)
            out.print(Text.assemble(("ok", "green"), f"      {entry.id}"))
        except NarrativeError as error:
            failed = True
            word = "missing" if isinstance(error, WeightsMissing) else "corrupt"
            out.print(Text.assemble((word, "red"), f" {entry.id}: {error.message}"), soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def pull_all(entries: list[ModelEntry]) -> None:
    """Pulls models one after the other and says what it is doing."""
    catalogue, folder = Catalogue(), read_settings(CommonSettings).models_dir
    for entry in entries:
        with err.status(f"{entry.id}: checking") as status:
            path = pull(catalogue, entry, folder, lambda line, entry=entry: status.update(f"{entry.id}: {line}"))  # type: ignore[misc]
        err.print(Text.assemble(("✓", "green"), f" {entry.id} ", (str(path), "dim")), soft_wrap=True)


def _origin(entry: ModelEntry) -> str:
    match entry.source:
        case PackageSource(packages=packages):
            return f"packages {', '.join(packages)}"
        case HubSource(repository=repository):
            return f"hub {repository}"
        case _:
            return "this repository"


def _select(names: list[str] | None, profile: str) -> list[ModelEntry]:
    catalogue = Catalogue()
    return [catalogue.entry(name) for name in names] if names else catalogue.for_profile(profile)
