"""The two consoles of the command line: results go to standard output, everything else to standard error."""

from typing import Annotated

import typer
from rich.console import Console

out = Console()
err = Console(stderr=True)

Url = Annotated[
    str | None,
    typer.Option(envvar="NARRATIVE_URL", help="Gateway to use; by default the one `narrate up` started."),
]
ApiKey = Annotated[str, typer.Option(envvar="NARRATIVE_API_KEY", help="API key, where the gateway asks for one.")]
