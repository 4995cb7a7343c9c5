"""`narrate`: turn speech into an illustrated story from the command line."""

import sys

import typer

from narrative import interrupts
from narrative.cli import (
    adapter_files,
    config,
    edit,
    ensemble,
    gpus,
    models,
    picture,
    plan,
    programs,
    story,
    transcribe,
)
from narrative.cli.console import print_error
from narrative.errors import NarrativeError

app = typer.Typer(
    help="Speech goes in; an illustrated story comes out, on your own machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("up")(ensemble.up)
app.command("down")(ensemble.down)
app.command("status")(ensemble.status)
app.command("story")(story.story)
app.command("transcribe")(transcribe.transcribe)
app.command("picture")(picture.picture)
app.command("edit")(edit.edit)
app.command("train", add_help_option=False, context_settings=programs.SETTINGS)(programs.train)
app.command("evaluate", add_help_option=False, context_settings=programs.SETTINGS)(programs.evaluate)
app.command("grid", add_help_option=False, context_settings=programs.SETTINGS)(programs.grid)
app.command("data", add_help_option=False, context_settings=programs.SETTINGS)(programs.data)
app.command("gpus")(gpus.gpus)
app.command("plan")(plan.plan)
app.command("config")(config.config)
app.add_typer(adapter_files.app, name="adapters", help="List, import, export and remove LoRA adapters.")
app.add_typer(models.app, name="models", help="Fetch, list and check model weights.")


def run() -> None:
    """Runs the command line; an error meant for people becomes one line, not a traceback."""
    try:
        interrupts.release()
        app()
    except NarrativeError as error:
        print_error(error.title, error.message)
        sys.exit(1)
    except OSError as error:
        print_error("Refused by the system", f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
