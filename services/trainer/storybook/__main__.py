"""The road from cut-outs to weights, one command a stage: cutouts, vae, train, export, sheet.

``pack``, ``on_device`` and ``assemble`` are the road by way of a GPU.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import sys
from pathlib import Path

import torch

from services.trainer.storybook import (
    beginning,
    concepts,
    cutouts,
    dataset,
    device_training,
    evaluation,
    export,
    judge_training,
    lessons,
    parallel,
    parts,
    sheet,
    train_text_to_image,
    train_vae,
    weight_shards,
    widening,
)
from services.trainer.storybook.judge import SHIPPED, Judge, JudgeError
from services.trainer.storybook.plan import Planner
from services.trainer.storybook.scenes import Composer

SIZE_PX = 128


def default_work_dir() -> Path:
    """Return the folder for caches, scenes, checkpoints and logs; it is never inside the repository."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "colorized-narrative" / "storybook"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(prog="python -m services.trainer.storybook", description=__doc__)
    top.add_argument("--work-dir", type=Path, default=default_work_dir(), help="caches and checkpoints (%(default)s)")
    top.add_argument("--threads", type=int, default=0, help="CPU threads; 1 is best where others use the CPU too")
    commands = top.add_subparsers(dest="command", required=True)

    command = commands.add_parser("cutouts", help="fetch the cut-outs and compose the training scenes")
    command.add_argument("--scenes", type=int, default=20_000, help="how many (%(default)s)")
    command.add_argument("--things", type=int, default=0, help="of so many of the commonest things; 0 for all")

    command = commands.add_parser("begin", help="go on from an exported model in a new --work-dir")
    command.add_argument("folder", type=Path, help="such as deploy/models/storybook")
    command.add_argument("--latent-channels", type=int, default=0, help="widen its latents to so many; 0 keeps them")
    command.add_argument("--double-first-level", action="store_true", help="twice the width at full latent resolution")

    command = commands.add_parser("vae", help="train the autoencoder; may run beside `train`")
    command.add_argument("--minutes", type=float, default=45.0, help="in all, resumed time included (%(default)s)")

    options = train_text_to_image.TrainOptions()
    command = commands.add_parser("train", help="train text encoder and UNet; resumes; SIGTERM saves")
    command.add_argument("--steps", type=int, default=options.steps, help="in all (%(default)s)")
    command.add_argument("--batch", type=int, default=options.batch, help="pictures a step (%(default)s)")
    command.add_argument("--learning-rate", type=float, default=options.learning_rate, help="(%(default)s)")
    command.add_argument(
        "--decay-steps", type=int, default=options.decay_steps, help="linear, at the end (%(default)s)"
    )
    command.add_argument(
        "--subject-weight",
        type=float,
        default=options.subject_weight,
        help="by how much things count more than the ground (%(default)s)",
    )
    command.add_argument(
        "--min-snr-gamma",
        type=float,
        default=options.min_snr_gamma,
        help="the greater, the more faint noise counts, and with it fine detail (%(default)s)",
    )
    command.add_argument("--seed", type=int, default=options.seed, help="(%(default)s)")
    command.add_argument(
        "--bf16",
        action="store_true",
        help="compute in bfloat16: half the time if lscpu names avx512_bf16 or amx_bf16, else many times as much",
    )
    command.add_argument("--workers", type=int, default=1, help="processes that share each batch (%(default)s)")

    command = commands.add_parser("pack", help="write the archive that a training on a lent GPU needs")
    command.add_argument("archive", type=Path, help="the .tar.xz to write")

    command = commands.add_parser("assemble", help="turn the shards of a training on a GPU into what `export` reads")
    command.add_argument("shards", type=Path)

    command = commands.add_parser("export", help="write the StableDiffusionPipeline directory, fp16 safetensors")
    command.add_argument("folder", type=Path)

    command = commands.add_parser("judge", help="train the judge of `evaluate` on scenes of its own; resumes")
    judge_training.add_options(command)

    command = commands.add_parser("evaluate", help="measure an exported model on held-out scenes")
    command.add_argument("folder", type=Path)
    command.add_argument("--judge", type=Path, default=SHIPPED, help="the judge's file (the one behind the docs)")
    command.add_argument("--pictures", type=int, default=200, help="held-out scenes (%(default)s)")
    command.add_argument("--steps", type=int, default=export.DEFAULTS["num_inference_steps"], help="(%(default)s)")
    command.add_argument(
        "--guidance-scale", type=float, default=export.DEFAULTS["guidance_scale"], help="(%(default)s)"
    )
    command.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    command.add_argument("--json", type=Path, help="also write the figures here")

    command = commands.add_parser("lessons", help="compose the data of the experiments in docs/experiments.md")
    command.add_argument("folder", type=Path)

    command = commands.add_parser("sheet", help="draw the held-out prompts with an exported model")
    command.add_argument("folder", type=Path)
    command.add_argument("picture", type=Path, help="the PNG file to write")
    command.add_argument("--steps", type=int, default=export.DEFAULTS["num_inference_steps"], help="(%(default)s)")
    command.add_argument(
        "--guidance-scale", type=float, default=export.DEFAULTS["guidance_scale"], help="(%(default)s)"
    )
    command.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    args = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    try:
        _run(args)
    except (
        cutouts.CutoutError,
        concepts.ConceptError,
        dataset.EditionError,
        weight_shards.ShardError,
        JudgeError,
        widening.WidthError,
        FileExistsError,
        FileNotFoundError,
    ) as error:
        logging.error("%s", error)  # noqa: TRY400  (a traceback would hide the one line that helps)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    if args.command == "cutouts":
        dataset.write_shards(args.work_dir, SIZE_PX, 0, -(-args.scenes // dataset.SHARD_SCENES), args.things)
    elif args.command == "begin":
        beginning.begin(args.work_dir, args.folder, args.latent_channels, double_first_level=args.double_first_level)
    elif args.command == "vae":
        train_vae.train(args.work_dir, train_vae.VaeOptions(minutes=args.minutes))
    elif args.command == "train":
        options = train_text_to_image.TrainOptions(
            steps=args.steps,
            batch=args.batch,
            learning_rate=args.learning_rate,
            decay_steps=args.decay_steps,
            subject_weight=args.subject_weight,
            min_snr_gamma=args.min_snr_gamma,
            bf16=args.bf16,
            seed=args.seed,
        )
        train_text_to_image.prepare(args.work_dir, SIZE_PX)
        work = functools.partial(train_text_to_image.train, args.work_dir, SIZE_PX, options)
        parallel.run(work, args.workers, max(1, args.threads))
    elif args.command == "pack":
        book = dataset.CaptionBook(Planner(concepts.load()))
        train_text_to_image.make_tokenizer(args.work_dir, book, range(20_000))
        parts.pack(args.work_dir, args.archive)
        logging.info("%s: %.1f MB", args.archive, args.archive.stat().st_size / 1e6)
    elif args.command == "assemble":
        device_training.assemble(args.shards, args.work_dir)
    elif args.command == "export":
        export.export(args.work_dir, args.folder)
    elif args.command == "judge":
        logging.info("%s", judge_training.run(args))
    elif args.command == "evaluate":
        _evaluate(args)
    elif args.command == "lessons":
        lessons.write(lessons.open_composer(args.work_dir, SIZE_PX), args.folder)
    elif args.command == "sheet":
        seconds = sheet.write(args.folder, args.picture, args.steps, args.guidance_scale, args.seed)
        logging.info("%s: %.2f s a picture", args.picture, seconds)


def _evaluate(args: argparse.Namespace) -> None:
    judge = Judge.load(args.judge)
    illustrator = sheet.PipelineIllustrator(args.folder, args.steps, args.guidance_scale)
    composer = Composer(cutouts.CutoutLibrary(cutouts.fetch(args.work_dir)), judge.concepts, illustrator.size_px)
    figures = json.dumps(evaluation.evaluate(illustrator, judge, composer, args.pictures, args.seed), indent=2)
    if args.json is not None:
        args.json.write_text(figures + "\n", encoding="utf-8")
    sys.stdout.write(figures + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
