"""Video edits as data: made small for a try, checked, and built into an Arrow data set.

    python -m services.trainer.pictures.videos mini videos         # two videos of random frames
    python -m services.trainer.pictures.videos check videos        # what is wrong, file by file
    python -m services.trainer.pictures.videos build videos arrow  # input_frames, edit_prompt, edited_image

``narrate train pix2pix --num-frames 20 --data-dir`` takes the folder as well as the built data set. Of the originals
the data set holds paths only, in the folder that it lies in itself; they are opened batch by batch.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from narrative.errors import DatasetInvalid, InvalidParameter, NarrativeError
from services.trainer.artifacts import DESCRIPTION_NAME, whole_folder
from services.trainer.pictures.edits import VIDEO_METADATA_NAME, read_video_metadata, video_edits
from services.trainer.pictures.images import read_picture

TASKS = ("drop_object", "cover_object", "move_object")
_MINI_SIDE_PX = 128


def make_mini(folder: Path, num_videos: int, num_frames: int, seed: int) -> None:
    """Writes videos of random frames, enough to see a training run.

    Raises:
        DatasetInvalid: the folder has a ``metadata.json`` already.
        InvalidParameter: no video, or no frame before the edited one.
    """
    if min(num_videos, num_frames) < 1:
        raise InvalidParameter(f"{num_videos} videos of {num_frames} frames: there must be one at least of each")
    if (folder / VIDEO_METADATA_NAME).exists():
        raise DatasetInvalid(f"{folder / VIDEO_METADATA_NAME} is there already")
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(num_videos):
        video = folder / f"{number:04d}"
        video.mkdir(parents=True, exist_ok=True)
        for frame in range(num_frames + 1):
            pixels = rng.integers(0, 256, (_MINI_SIDE_PX, _MINI_SIDE_PX, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(video / f"{frame:02d}.jpg")
        rows.append({"video_path": video.name, "instruction": TASKS[number % len(TASKS)]})
    (folder / VIDEO_METADATA_NAME).write_text(f"{json.dumps(rows, indent=2)}\n", encoding="utf-8")


def check(folder: Path, num_frames: int) -> list[str]:
    """What is wrong with a folder of videos: missing frames, unreadable ones, frames of different sizes.

    Raises:
        DatasetInvalid: there is no ``metadata.json``, or it is malformed.
    """
    problems = []
    for video, instruction in read_video_metadata(folder):
        if not instruction.strip():
            problems.append(f"{video}: no instruction")
        sizes = set()
        for number in range(num_frames + 1):
            found = [file for suffix in (".jpg", ".png") if (file := video / f"{number:02d}{suffix}").is_file()]
            if not found:
                problems.append(f"{video}: frame {number:02d}.jpg is missing")
                continue
            try:
                sizes.add(read_picture(found[0]).size)
            except DatasetInvalid as error:
                problems.append(error.message)
        if len(sizes) > 1:
            problems.append(f"{video}: frames of different sizes: {sorted(sizes)}")
    return problems


def build(folder: Path, target: Path, num_frames: int) -> int:
    """Builds the Arrow data set; returns how many edits it has.

    Raises:
        DatasetInvalid: a frame is missing.
        InvalidParameter: the videos are not in the folder that ``target`` is in.
        Conflict: there is something else at ``target``.
    """
    import datasets

    beside = target.absolute().parent
    if not folder.absolute().is_relative_to(beside):
        raise InvalidParameter(f"{target}: only videos in {beside} or below can be read from there", field="target")
    edits = video_edits(folder.absolute(), num_frames).edits
    columns: dict[str, list[Any]] = {
        "input_frames": [[str(path) for path in edit.frames] for edit in edits],
        "edit_prompt": [edit.instruction for edit in edits],
        "edited_image": [str(edit.edited) for edit in edits],
    }
    features = datasets.Features(
        {
            "input_frames": datasets.Sequence(datasets.Value("string")),
            "edit_prompt": datasets.Value("string"),
            "edited_image": datasets.Image(),
        }
    )
    table = datasets.Dataset.from_dict(columns, features=features)
    with whole_folder(target, {"made_from": folder.resolve(), "num_frames": num_frames}) as partial:
        table.save_to_disk(partial)
    return len(edits)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m services.trainer.pictures.videos", description="Video edits as training data."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, summary in (
        ("mini", "make videos of random frames"),
        ("check", "say what is wrong with a folder of videos"),
        ("build", f"build an Arrow data set, with {DESCRIPTION_NAME} beside it"),
    ):
        command = commands.add_parser(name, help=summary)
        command.add_argument("folder", type=Path)
        command.add_argument("--num-frames", type=int, default=20, help="frames before the edited one (%(default)s)")
        if name == "mini":
            command.add_argument("--videos", type=int, default=2, help="how many (%(default)s)")
            command.add_argument("--seed", type=int, default=0, help="(%(default)s)")
        if name == "build":
            command.add_argument("target", type=Path)
    options = parser.parse_args(arguments)
    try:
        problems = _run(options)
    except NarrativeError as error:
        problems = [error.message]
    except OSError as error:
        problems = [str(error)]
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if problems else 0


def _run(options: argparse.Namespace) -> list[str]:
    if options.command == "mini":
        make_mini(options.folder, options.videos, options.num_frames, options.seed)
    elif options.command == "build":
        sys.stdout.write(f"{build(options.folder, options.target, options.num_frames)} edits in {options.target}\n")
    else:
        return check(options.folder, options.num_frames)
    return []


if __name__ == "__main__":
    raise SystemExit(main())
