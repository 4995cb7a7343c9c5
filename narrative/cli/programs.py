"""`narrate train`, `grid`, `evaluate` and `data`: programs of the trainer, each in a process of its own.

The program takes the place of this process, so that signals reach it and this command line imports no torch.
"""

import os
import sys
from typing import NoReturn

import typer

from narrative import interrupts

# The programs have help and options of their own.
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def train(context: typer.Context) -> None:
    """Teach the ensemble a character, a style, a voice or an edit."""
    _become("services.trainer.cli", context)


def grid(context: typer.Context) -> None:
    """Draw pictures over any two settings, as one labelled sheet."""
    _become("services.trainer.grid.cli", context)


def evaluate(context: typer.Context) -> None:
    """Measure speech (WER, CER) or pictures (CLIP-I, CLIP-T, DINO, FID, KID, IS)."""
    _become("services.trainer.evaluation.cli", context)


def data(context: typer.Context) -> None:
    """Check a data set of sound, pictures or edits, or build a clean one of it."""
    _become("services.trainer.data.cli", context)


def _become(module: str, context: typer.Context) -> NoReturn:
    # Threads that wait for others would otherwise spin, and on shared cores keep the others from working.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.stdout.flush()
    interrupts.hold()
    os.execv(sys.executable, [sys.executable, "-m", module, *context.args])  # noqa: S606
