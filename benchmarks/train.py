"""What does a step of each recipe cost, beside a plain loop of the same maths? Ratios from one run.

    python -m benchmarks.train [--model storybook] [--resolution 128] [--batch 1] [--steps 20] [--rounds 3]
                               [--threads 1] [--[no-]gradient-checkpointing] [--return-memory] [--recipe NAME]

The plain loops (``benchmarks/plain_training.py``) are what one would write first: every step opens its files, encodes
them, and denoises or listens; all parts stay in memory. Recipe and loop take turns, each in a process of its own, on
the same data, with the same adapter, batch and accumulation. Times are processor time, so that other work on the cores
counts little; memory is the peak of the whole process, libraries included. The last ratio is of what training takes
beyond the libraries: the peaks less that of a process that only imports what both need.
"""

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path

import numpy as np
import PIL.Image

EXAMPLES = 8
PROMPT = "a pim fox"
# Recipe and the function of the plain loop.
RECIPES = {
    "style": "adapter",
    "dreambooth": "adapter",
    "dreambooth, text encoder": "adapter",
    "pix2pix": "pix2pix",
    "whisper_lora": "whisper_lora",
}
SPEECH = Path(__file__).parents[1] / "examples" / "three-voices.flac"
CLIP_S = 5


def make_pictures(folder):
    """Pictures as a camera would give them, so that opening them costs what it does."""
    rng = np.random.default_rng(0)
    for index in range(EXAMPLES):
        small = PIL.Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
        small.resize((1024, 768), PIL.Image.Resampling.BICUBIC).save(folder / f"{index}.jpg", quality=92)


def make_edits(folder):
    """Pictures and their mirror images; the plain loop mirrors them itself."""
    make_pictures(folder)
    (folder / "edited").mkdir()
    rows = []
    for index in range(EXAMPLES):
        picture = PIL.Image.open(folder / f"{index}.jpg")
        picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "edited" / f"{index}.jpg", quality=92)
        edit = {"input_image": f"{index}.jpg", "edit_prompt": "mirror it", "edited_image": f"edited/{index}.jpg"}
        rows.append(json.dumps(edit))
    (folder / "metadata.jsonl").write_text("\n".join(rows))


def make_clips(folder):
    """Pieces of the sample recording, with some text: what is said does not change what a step costs."""
    from services.trainer.speech.audio import decode

    samples = decode(SPEECH, SPEECH.name, max_s=60.0)
    # Two more, for the recipe keeps some for validation, and the loops are to learn from as many.
    for index in range(EXAMPLES + 2):
        start = index * (len(samples) - CLIP_S * 16_000) // (EXAMPLES + 1)
        with wave.open(str(folder / f"{index}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes((samples[start : start + CLIP_S * 16_000] * 32_767).astype("<i2").tobytes())
        (folder / f"{index}.txt").write_text(f"the fox number {index} goes over the hill and into the wood")


def recipe(name, options):
    """Processor seconds of every step of the recipe."""
    from services.trainer.arguments import validated
    from services.trainer.progress import Progress

    durations = []

    class Timed(Progress):
        def begin(self, first_step, board_dir):
            super().begin(first_step, board_dir)
            self.since = time.process_time()

        def step(self, *facts, show):
            durations.append(time.process_time() - self.since)
            self.since = time.process_time()

        def epoch(self, *facts):
            # What is done after an epoch belongs to no step.
            self.since = time.process_time()

    folder = options.data
    settings = {
        "max_train_steps": options.steps, "output_dir": folder.parent / "result", "tensorboard": False, "device": "cpu",
        "train_batch_size": options.batch,
    }  # fmt: skip
    if options.gradient_checkpointing is not None:
        settings["gradient_checkpointing"] = options.gradient_checkpointing
    if name == "whisper_lora":
        settings |= {"dataset": str(folder), "language": "en", "validation_clips": 1, "validation_share": 0.2}
    else:
        settings |= {"model_id": options.model, "resolution": options.resolution}
    if name == "style":
        settings |= {"dataset_dir": folder, "prompt": PROMPT}
    elif name == "pix2pix":
        settings |= {"data_dir": folder}
    elif name != "whisper_lora":
        settings |= {"instance_data_dir": folder, "instance_prompt": PROMPT, "train_text_encoder": "text" in name}
    package = f"services.trainer.recipes.{name.split(',')[0]}"
    config = validated(importlib.import_module(f"{package}.config").Config, settings)
    importlib.import_module(f"{package}.train").run(config, Timed())
    return durations


def libraries(name):
    """Imports what recipe and loop both need, model classes included; no step is taken."""
    importlib.import_module("benchmarks.plain_training")
    classes = {"diffusers": ["AutoencoderKL", "UNet2DConditionModel"], "transformers": ["CLIPTextModel"]}
    if name == "whisper_lora":
        classes = {"transformers": ["WhisperForConditionalGeneration", "WhisperProcessor"]}
    for module, names in classes.items():
        for one in names:
            getattr(importlib.import_module(module), one)


def worker(options):
    import torch

    torch.set_num_threads(options.threads)
    if options.way == "libraries":
        libraries(options.recipe)
        durations = [0.0] * 3
    elif options.way == "recipe":
        durations = recipe(options.recipe, options)
    else:
        plain = importlib.import_module("benchmarks.plain_training")
        durations = getattr(plain, RECIPES[options.recipe])(options.recipe, options, options.data)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # The first steps choose kernels.
    print(json.dumps({"step_s": statistics.median(durations[2:]), "peak_mib": peak_mib}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="storybook")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--gradient-checkpointing",
        action=argparse.BooleanOptionalAction,
        help="in the recipe, its default if unset; the loop keeps all",
    )
    parser.add_argument("--return-memory", action="store_true", help="recipe: blocks from 128 KiB go back when freed")
    parser.add_argument("--recipe", choices=RECIPES)
    parser.add_argument("--way", choices=["libraries", "recipe", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        worker(options)
        return
    names = ("model", "resolution", "batch", "steps", "threads")
    shared = [part for name in names for part in (f"--{name}", getattr(options, name))]
    if options.gradient_checkpointing is not None:
        shared.append(f"--{'' if options.gradient_checkpointing else 'no-'}gradient-checkpointing")
    print(f"{'recipe':26s} {'plain':>16s} {'recipe':>16s}   ratios (time, memory, memory beyond libraries)")
    for name in [options.recipe] if options.recipe else RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            data.mkdir()
            {"pix2pix": make_edits, "whisper_lora": make_clips}.get(name, make_pictures)(data)
            seen = {"libraries": [], "plain": [], "recipe": []}
            for _ in range(options.rounds):
                for way, found in seen.items():
                    command = [sys.executable, "-m", "benchmarks.train", "--way", way, "--recipe", name, *shared]
                    command = [*map(str, command), "--data", str(data)]
                    returned = {"MALLOC_MMAP_THRESHOLD_": "131072"} if options.return_memory and way == "recipe" else {}
                    done = subprocess.run(command, check=True, capture_output=True, env={**os.environ, **returned})
                    found.append(json.loads(done.stdout.splitlines()[-1]))
        step = {way: statistics.median(one["step_s"] for one in found) for way, found in seen.items()}
        peak = {way: statistics.median(one["peak_mib"] for one in found) for way, found in seen.items()}
        ways = [f"{step[way]:.3f} s {peak[way]:4.0f} MiB" for way in ("plain", "recipe")]
        beyond = (peak["recipe"] - peak["libraries"]) / (peak["plain"] - peak["libraries"])
        ratios = f"{step['recipe'] / step['plain']:.2f}, {peak['recipe'] / peak['plain']:.2f}, {beyond:.2f}"
        print(f"{name:26s} {ways[0]:>16s} {ways[1]:>16s}   {ratios} ({peak['libraries']:.0f} MiB)", flush=True)


if __name__ == "__main__":
    main()
