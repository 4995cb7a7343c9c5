"""`narrate train`: one training, in a process of its own."""

import os
import sys

import typer

TRAINER = "services.trainer.cli"


def train(context: typer.Context) -> None:
    """Teach the ensemble a character, a style, a voice or an edit.

    The trainer takes the place of this process, so that signals reach it and this command line imports no torch.
    """
    # Threads that wait for others would otherwise spin, and on shared cores keep the others from working.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", TRAINER, *context.args])  # noqa: S606
