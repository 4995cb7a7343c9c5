"""What docs/experiments.md counts and shows beside what `narrate` does: python -m benchmarks.experiments COMMAND

nearer   how many pictures are nearer to one of their name in a folder than to that in another folder.
beside   pictures of the same number in several folders, side by side on one sheet.
"""

import argparse
from pathlib import Path

import numpy as np
import PIL.Image

from services.trainer.evaluation.folders import list_pictures
from services.trainer.grid.plan import Axis
from services.trainer.grid.sheet import lay_out


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
    args.run(args)


if __name__ == "__main__":
    main()
