"""What the programs behind `narrate data`, `narrate evaluate` and `narrate grid` do with errors."""

import sys

import typer
from rich.console import Console
from rich.markup import escape

from narrative import interrupts
from narrative.errors import Cancelled, NarrativeError

INTERRUPTED = 130
STOPPED = 143
err = Console(stderr=True)


def run(app: typer.Typer, name: str) -> None:
    """Runs a command line; an error meant for people becomes one line, not a traceback."""
    try:
        interrupts.release()
        app(prog_name=name)
    except NarrativeError as error:
        err.print(f"[bold red]{error.title}:[/] {escape(error.message)}", highlight=False)
        sys.exit(STOPPED if isinstance(error, Cancelled) else 1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:
        err.print(f"[bold red]Cannot be written:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)
