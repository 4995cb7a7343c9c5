"""What docs/experiments.md counts and shows beside what `narrate` does: python -m benchmarks.experiments COMMAND

classes  how well a model draws each class: which composed pictures, of all classes, its pictures of one are most like.
nearer   how many pictures are nearer to one of their name in a folder than to that in another folder.
beside   pictures of the same number in several folders, side by side on one sheet.
"""

import argparse
import os
import random
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from services.trainer.evaluation.folders import list_pictures, open_in_batches
from services.trainer.evaluation.judges import open_judge
from services.trainer.evaluation.pictures import mean_cosines
from services.trainer.grid.plan import Axis, make_grid
from services.trainer.grid.sheet import lay_out
from services.trainer.storybook import concepts, lessons
from services.trainer.storybook.plan import Subject

COMPOSED = 12


def classes(args: argparse.Namespace) -> None:
    """Ranks, for every class, the similarity of its drawn pictures to its own composed ones among that to all."""
    grid = make_grid(f"prompt=@{args.names}", args.columns, {})
    names, judge, known = grid.rows.values, open_judge("storybook"), concepts.load()
    composer = lessons.open_composer(args.work_dir, 128)
    drawn, composed = [], []
    for row, name in enumerate(names):
        cells = [args.grid / "cells" / grid.file_name(row, column) for column in range(len(grid.columns.values))]
        drawn.append(judge.pictures(next(open_in_batches(cells, len(cells)))))
        concept, rng = known[name], random.Random(name)
        subjects = [
            (Subject(concept, rng.choice(concept.colours or ("blue",))), rng.choice(concept.places))
            for _ in range(COMPOSED)
        ]
        pictures = [lessons.portrait(composer, subject, place, seed) for seed, (subject, place) in enumerate(subjects)]
        composed.append(judge.pictures(pictures))
    alike = np.array([[float(mean_cosines(ours, theirs).mean()) for theirs in composed] for ours in drawn])
    own = alike.diagonal()
    # Of all classes, how many are more like what was drawn; of all drawings, how many are more like this class.
    as_drawn, as_class = 1 + (alike > own[:, None]).sum(axis=1), 1 + (alike > own[None, :]).sum(axis=0)
    order = np.argsort(as_drawn + as_class, kind="stable")
    print(f"| of {len(names)} classes | similarity to its composed pictures | rank of these | rank of its drawings |")
    print("|---|---|---|---|")
    chosen = [*order[: args.best], *(index for index in order[args.best :] if names[index] in args.also)]
    for index in chosen:
        print(f"| {names[index]} | {own[index]:.3f} | {as_drawn[index]} | {as_class[index]} |")


def nearer(args: argparse.Namespace) -> None:
    """Counts by the mean absolute difference of pixels."""
    count, paths = 0, list_pictures(args.pictures)
    for path in paths:
        to, than = (_distance(path, folder) for folder in (args.to, args.than))
        count += to < than
    print(f"{count} of {len(paths)} are nearer to {args.to} than to {args.than}")


def beside(args: argparse.Namespace) -> None:
    """Lays out a row for every number and a column for every folder."""
    labels, folders = zip(*(column.split("=", 1) for column in args.columns), strict=True)
    files = [list_pictures(Path(folder))[: args.number] for folder in folders]
    pictures = [[PIL.Image.open(path) for path in row] for row in zip(*files, strict=True)]
    # An axis of prompts is labelled with its values alone.
    rows = Axis("prompt", tuple(path.stem for path in files[0]))
    args.sheet.parent.mkdir(parents=True, exist_ok=True)
    lay_out(pictures, rows, Axis("prompt", labels), "", args.tile_px).save(args.sheet)


def _distance(path: Path, folder: Path) -> float:
    other = next(folder.glob(f"{path.stem}.*"))
    ours, theirs = (np.asarray(PIL.Image.open(file).convert("RGB"), np.float64) for file in (path, other))
    return float(np.abs(ours - theirs).mean())


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("classes")
    command.set_defaults(run=classes)
    command.add_argument("grid", type=Path, help="what `narrate grid` made of --rows prompt=@NAMES --columns COLUMNS")
    command.add_argument("--names", type=Path, required=True, help="file of the classes, one a line")
    command.add_argument("--columns", default="seed=0,1,2,3", help="(%(default)s)")
    command.add_argument("--work-dir", type=Path, required=True, help="of Storybook's tools, for the cut-outs")
    command.add_argument("--best", type=int, default=8, help="rows of the table (%(default)s)")
    command.add_argument("--also", nargs="*", default=[], help="classes that are shown whatever their rank")
    command = commands.add_parser("nearer")
    command.set_defaults(run=nearer)
    command.add_argument("pictures", type=Path)
    command.add_argument("--to", type=Path, required=True)
    command.add_argument("--than", type=Path, required=True)
    command = commands.add_parser("beside")
    command.set_defaults(run=beside)
    command.add_argument("sheet", type=Path, help="file to write (.png, .webp)")
    command.add_argument("columns", nargs="+", metavar="LABEL=FOLDER")
    command.add_argument("--number", type=int, default=8, help="pictures of each folder, the first (%(default)s)")
    command.add_argument("--tile-px", type=int, default=112, help="(%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    args.run(args)


if __name__ == "__main__":
    main()
