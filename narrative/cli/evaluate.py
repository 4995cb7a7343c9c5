"""`narrate evaluate`: figures that say how good a model is, in a process of its own."""

import os
import sys

import typer

EVALUATION = "services.trainer.evaluation.cli"


def evaluate(context: typer.Context) -> None:
    """Measure speech (WER, CER) or pictures (CLIP-I, CLIP-T, DINO, FID, KID, IS).

    The evaluation takes the place of this process, so that this command line imports no torch.
    """
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", EVALUATION, *context.args])  # noqa: S606
