"""The two consoles of the command line: results go to standard output, everything else to standard error."""

from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

# Whatever is printed may hold what others wrote, and brackets and colons in that are neither markup nor emoji.
out = Console(markup=False, emoji=False, highlight=False)
err = Console(stderr=True, markup=False, emoji=False, highlight=False)

Url = Annotated[
    str | None,
    typer.Option(envvar="NARRATIVE_URL", help="Gateway to use; by default the one `narrate up` started."),
]
ApiKey = Annotated[str, typer.Option(envvar="NARRATIVE_API_KEY", help="API key, where the gateway asks for one.")]


def print_error(title: str, message: str) -> None:
    """One line for people."""
    err.print(Text.assemble((f"{title}:", "bold red"), " ", message), soft_wrap=True)
