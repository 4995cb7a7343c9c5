"""`python -m services.trainer.data.cli`: checks a data set, or builds a clean one of it; `narrate data` calls it.

Standard output gets one JSON object: how many items are fit, and why the others are not. Exit status: 0 something is
fit, 1 nothing is, or something was wrong.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from narrative.errors import InvalidParameter, ServiceUnavailable
from services.trainer.command_line import err, run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(
    help="Check a data set of sound with text, pictures with text, or edits; with TARGET, build a clean one of it.\n\n"
    "What is fit is written as 16 kHz WAV with a .txt beside, or as PNG with metadata.jsonl, texts normalised. Dropped "
    "are items that are broken, too small, too short or too long, silent, without a text that is needed, or there "
    "twice.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
)
def data(
    source: Annotated[str, typer.Argument(help="Folder, manifest (.jsonl, .csv, .tsv) or data set of the hub.")],
    target: Annotated[Path | None, typer.Argument(help="Its folder; an earlier one built there is replaced.")] = None,
    kind: Annotated[str, typer.Option(help="sound, pictures or edits; a folder is looked into.")] = "",
    text_column: Annotated[str, typer.Option(help="Column, or key in metadata.jsonl, of the text.")] = "text",
    audio_column: Annotated[str, typer.Option(help="Column of the sound, where there are columns.")] = "audio",
    image_column: Annotated[str, typer.Option(help="Column of the pictures, where there are columns.")] = "image",
    split: Annotated[str, typer.Option(help="Split of a data set of the hub.")] = "train",
    num_frames: Annotated[int, typer.Option(min=1, help="Frames before the edited one, of videos.")] = 20,
    min_duration_s: Annotated[float, typer.Option(min=0, help="Shorter clips are dropped.")] = 0.5,
    max_duration_s: Annotated[float, typer.Option(min=0.1, help="Longer clips are dropped.")] = 30.0,
    max_characters_per_s: Annotated[
        float, typer.Option(min=1, help="Clips with more text than can be said in their time are dropped.")
    ] = 30.0,
    min_image_px: Annotated[int, typer.Option(min=1, help="Pictures with a shorter side are dropped.")] = 64,
) -> None:
    """Checks or builds."""
    try:
        from services.trainer.data.build import clean_corpus
        from services.trainer.data.corpus import KINDS, Layout, open_corpus
        from services.trainer.failures import clear_errors
        from services.trainer.speech.selection import Limits
    except ModuleNotFoundError as error:
        raise ServiceUnavailable(
            f"the trainer is not installed ({error.name} is missing): pip install 'colorized-narrative[trainer]'"
        ) from error
    chosen = next((known for known in KINDS if known == kind), None)
    if kind and chosen is None:
        raise InvalidParameter(f"{kind!r} is no kind; there are {', '.join(KINDS)}", field="kind")
    layout = Layout(audio_column, image_column, text_column, num_frames=num_frames, split=split)
    with err.status("reading") as status, clear_errors():
        cleaning = clean_corpus(
            open_corpus(source, chosen, layout),
            target,
            limits=Limits(min_duration_s, max_duration_s, max_characters_per_s),
            min_px=min_image_px,
            report=lambda line: status.update(escape(line)),
        )
    result: dict[str, Any] = {**cleaning.as_json(), **({"output_dir": str(target)} if target else {})}
    sys.stdout.write(f"{json.dumps(result, indent=2, ensure_ascii=False)}\n")


def main() -> None:
    """Runs the command line."""
    run(app, "narrate data")


if __name__ == "__main__":
    main()
