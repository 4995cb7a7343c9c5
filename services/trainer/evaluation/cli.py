"""`python -m services.trainer.evaluation.cli`: measures speech or pictures; `narrate evaluate` calls it.

Standard output gets one JSON object, standard error a table. Exit status: 0 measured and every requirement met, 1
something was wrong, 3 a requirement was not met.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from narrative.errors import InvalidParameter
from services.trainer.command_line import err, run
from services.trainer.evaluation import gate
from services.trainer.evaluation.report import Report

UNMET = 3

app = typer.Typer(
    name="narrate evaluate",
    help="Measure speech (WER, CER) or pictures (CLIP-I, CLIP-T, DINO, FID, KID, IS).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Require = Annotated[
    list[str] | None,
    typer.Option(help="Condition on a score, for example 'wer<=0.2'; exit status 3 where it is not met."),
]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="File for the JSON, besides standard output.")]


@app.command()
def speech(
    references: Annotated[Path | None, typer.Option(help="What was said, one text a line.")] = None,
    hypotheses: Annotated[Path | None, typer.Option(help="What was heard, one text a line.")] = None,
    dataset: Annotated[str, typer.Option(help="Instead: folder, manifest or dataset with audio and text.")] = "",
    model: Annotated[
        str, typer.Option(help="Transcription model for it: catalogue id, path or published name.")
    ] = "whisper-base",
    language: Annotated[str, typer.Option(help="ISO 639-1 code of the language spoken; detected by default.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Most clips; all by default.")] = None,
    audio_column: Annotated[str, typer.Option(help="Column of the audio, where there are columns.")] = "audio",
    text_column: Annotated[str, typer.Option(help="Column of the text, where there are columns.")] = "text",
    require: Require = None,
    output: Output = None,
) -> None:
    """Word and character error rates of two text files, or of a model on a data set."""
    from services.trainer.evaluation.speech import SCORES, compare_files, score_model
    from services.trainer.speech.sources import Columns

    requirements = gate.parse(require or [], SCORES)
    if dataset and not (references or hypotheses):
        with err.status("listening") as status:
            columns = Columns(audio_column, text_column)
            report = score_model(
                dataset, columns, model, language=language, limit=limit, report=lambda line: status.update(line)
            )
    elif references and hypotheses and not dataset:
        report = compare_files(references, hypotheses)
    else:
        raise InvalidParameter("give either --references and --hypotheses, or --dataset", field="dataset")
    _finish(report, requirements, output)


@app.command()
def pictures(
    generated: Annotated[Path, typer.Argument(help="Folder of pictures to measure.")],
    real: Annotated[Path | None, typer.Option(help="Folder of real pictures to compare them with.")] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures of the same names, made without; similarity, clip_i and dino get a gain."
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts, one a line in the order of file names; or a .txt beside each picture.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="clip_i, clip_t, dino, similarity, fid, kid, is or l1; by default similarity, fid and kid."),
    ] = None,
    clip_model: Annotated[str, typer.Option(help="CLIP of clip_i and clip_t.")] = "clip-vit-large-patch14",
    dino_model: Annotated[str, typer.Option(help="Vision transformer of dino.")] = "dino-vits16",
    feature_model: Annotated[str, typer.Option(help="Model of similarity, fid and kid.")] = "storybook",
    classifier_model: Annotated[str, typer.Option(help="Picture classifier of is.")] = "resnet-50",
    seed: Annotated[int, typer.Option(help="Seed of the subsets of kid and the splits of is.")] = 0,
    require: Require = None,
    output: Output = None,
) -> None:
    """How like real pictures, how true to their prompts, how varied pictures are."""
    from services.trainer.evaluation.pictures import COSINES, DEFAULT, Judges, score_pictures

    measured = [*(metric or DEFAULT)]
    if baseline:
        measured += [f"{name}_gain" for name in COSINES if name in measured]
    requirements = gate.parse(require or [], measured)
    judges = Judges(clip_model, dino_model, feature_model, classifier_model)
    with err.status("looking") as status:
        report = score_pictures(
            generated,
            real,
            prompts,
            metric,
            judges,
            seed=seed,
            report=lambda line: status.update(line),
            baseline=baseline,
        )
    _finish(report, requirements, output)


def _finish(report: Report, requirements: list[gate.Requirement], output: Path | None) -> None:
    if output is not None:
        report.write(output)
    sys.stdout.write(f"{report.as_json()}\n")
    err.print(report.table())
    if unmet := gate.unmet(requirements, report.scores):
        err.print(f"[bold red]Not met:[/] {escape('; '.join(unmet))}", highlight=False)
        raise typer.Exit(UNMET)


def main() -> None:
    """Runs the command line."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    run(app, "narrate evaluate")


if __name__ == "__main__":
    main()
