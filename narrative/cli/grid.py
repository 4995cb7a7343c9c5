"""`narrate grid`: a labelled sheet over two settings, in a process of its own."""

import os
import sys

import typer

GRID = "services.trainer.grid.cli"


def grid(context: typer.Context) -> None:
    """Draw pictures over any two settings, as one labelled sheet.

    The work takes the place of this process, so that this command line imports no torch.
    """
    # Threads that wait for others would otherwise spin, and on shared cores keep the others from working.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", GRID, *context.args])  # noqa: S606
