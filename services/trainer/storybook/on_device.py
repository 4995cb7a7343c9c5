"""A chunk of training on a bare machine with an accelerator: nothing but this folder, PyTorch and diffusers is needed.

``python -m services.trainer.storybook.on_device --help``. docs/storybook.md has the whole sequence of commands.
"""

from __future__ import annotations

import argparse
import logging
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

from services.trainer.storybook import sheet
from services.trainer.storybook.cutouts import CutoutError
from services.trainer.storybook.dataset import EditionError
from services.trainer.storybook.device_options import DeviceOptions, from_values
from services.trainer.storybook.device_training import DivergedError, run_chunk
from services.trainer.storybook.weight_shards import ShardError


def parser() -> argparse.ArgumentParser:
    """Return the command line; every field of ``DeviceOptions`` is an option."""
    top = argparse.ArgumentParser(prog="python -m services.trainer.storybook.on_device", description=__doc__)
    top.add_argument("--work-dir", type=Path, required=True, help="scenes and state; kept between chunks if it can be")
    top.add_argument("--out", type=Path, required=True, help="where the shards and a sheet of pictures go")
    top.add_argument("--for-s", type=float, required=True, help="seconds this chunk may take, everything included")
    top.add_argument("--archive", type=Path, help="what the `pack` command wrote")
    top.add_argument("--shards", type=Path, help="shards of an earlier chunk, for a machine without its state")
    top.add_argument("--sheet-steps", type=int, default=20, help="denoising steps of the sheet (%(default)s)")
    types = typing.get_type_hints(DeviceOptions)
    for field in fields(DeviceOptions):
        flag, default = "--" + field.name.replace("_", "-"), field.default
        kind: Any = types[field.name]
        if kind is bool:
            top.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, tuple):
            top.add_argument(flag, type=int, nargs="+", default=default, help="(%(default)s)")
        else:
            top.add_argument(flag, type=kind, default=default, help="(%(default)s)")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Do one chunk; return the exit status."""
    args = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = from_values(vars(args))
    try:
        run = run_chunk(args.work_dir, options, args.for_s, args.out, archive=args.archive, shards=args.shards)
    except (CutoutError, DivergedError, EditionError, ShardError, FileNotFoundError, TimeoutError, ValueError) as error:
        logging.error("%s", error)  # noqa: TRY400  (a traceback would hide the one line that helps)
        return 1
    sheet.write_with(run.pipeline(), args.out / f"sheet-{run.step:06d}.png", args.sheet_steps, guidance_scale=3.0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
