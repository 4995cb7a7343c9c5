"""`python -m services.trainer.grid.cli`: draws a grid; `narrate grid` calls it.

Standard output gets the sheet's path, standard error the progress. Exit status: 0 drawn, 1 something was wrong, 143
stopped by a signal; the same command goes on.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from narrative.errors import ServiceUnavailable
from services.trainer.command_line import STOPPED, err, run
from services.trainer.grid.plan import Cell, make_grid

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_AXES = ", ".join(name.replace("_", "-") for name in Cell.model_fields)


@app.command(
    help="Draw pictures over any two settings, as one labelled sheet.\n\n"
    f"Axes: {_AXES}. The adapter none is the base by itself.\n\n"
    "learning-rate, text-encoder-lr, rank and steps mean a training for every value: they need --recipe and "
    "--settings. Pictures and trained adapters are kept in OUTPUT_DIR; the same command given again goes on where it "
    "was stopped, and more values may be added.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
)
def grid(
    output_dir: Annotated[Path, typer.Argument(help="Folder for cells, adapters and the sheet.")],
    rows: Annotated[str, typer.Option(help="AXIS=VALUE,VALUE or AXIS=@FILE with a value in every line.")],
    columns: Annotated[str, typer.Option(help="Likewise.")],
    prompt: Annotated[str, typer.Option(help="What to draw.")] = "",
    adapter: Annotated[str, typer.Option(help="Adapter: folder, .safetensors file, or its name.")] = "",
    unet_scale: Annotated[float | None, typer.Option(help="Weight of the adapter; 1 if not given.")] = None,
    text_encoder_scale: Annotated[
        float | None, typer.Option(help="Its weight on the text encoder; the same if not given.")
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance; the model's default else.")] = None,
    inference_steps: Annotated[int | None, typer.Option(help="Denoising steps; the model's default else.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the pictures; 0 if not given.")] = None,
    model_id: Annotated[
        str, typer.Option(help="Model: catalogue id, path or hub repository; that of --settings where it has one.")
    ] = "",
    recipe: Annotated[str, typer.Option(help="Recipe of the trainings, dreambooth or style.")] = "",
    settings: Annotated[Path | None, typer.Option(help="YAML or JSON file with the recipe's settings.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="File of the sheet (.png, .webp); OUTPUT_DIR/sheet.png.")] = None,
    tile_px: Annotated[int, typer.Option(min=16, max=2048, help="Width of a picture on the sheet, pixels.")] = 128,
    num_threads: Annotated[int, typer.Option(min=0, help="CPU threads that draw; 0 leaves it to torch.")] = 0,
) -> None:
    """Draws a grid."""
    fixed: dict[str, Any] = {
        "prompt": prompt,
        "adapter": adapter,
        "unet_scale": unet_scale,
        "text_encoder_scale": text_encoder_scale,
        "guidance": guidance,
        "inference_steps": inference_steps,
        "seed": seed,
    }
    plan = make_grid(rows, columns, {name: value for name, value in fixed.items() if value not in ("", None)})
    try:
        from services.trainer.grid.run import Order, draw_grid
    except ModuleNotFoundError as error:
        raise ServiceUnavailable(
            f"the trainer is not installed ({error.name} is missing): pip install 'colorized-narrative[trainer]'"
        ) from error
    order = Order(plan, output_dir, model_id, recipe, settings, sheet or output_dir / "sheet.png", tile_px)
    with err.status("looking what is there") as status:
        path = draw_grid(order, num_threads, lambda line: status.update(escape(line)))
    sys.stdout.write(f"{path}\n")


def main() -> None:
    """Runs the command line."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # As an exception, so that a training under way is told too, and saves a checkpoint.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
    run(app, "narrate grid")


if __name__ == "__main__":
    main()
