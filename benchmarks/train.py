"""What does a step of each recipe cost, beside a plain loop of the same maths? Ratios from one run.

    python -m benchmarks.train [--model storybook] [--resolution 128] [--steps 20] [--rounds 3] [--threads 1]

The plain loop is what one would write first: every step opens its pictures, encodes them, encodes the prompt, and
denoises; autoencoder and text encoder stay in memory. Recipe and loop take turns, each in a process of its own, on
the same pictures, with the same adapter, batch and accumulation. Times are processor time, so that other work on the
cores counts little; memory is the peak of the whole process.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image

PICTURES = 8
PROMPT = "a pim fox"
# Settings that differ from recipe to recipe: accumulation, alpha, dropout, mirroring, the text encoder's adapter.
RECIPES = {
    "style": {"accumulation": 4, "alpha": 32, "dropout": 0.05, "flip": True, "text": False},
    "dreambooth": {"accumulation": 1, "alpha": 16, "dropout": 0.0, "flip": False, "text": False},
    "dreambooth, text encoder": {"accumulation": 1, "alpha": 16, "dropout": 0.0, "flip": False, "text": True},
}


def make_pictures(folder):
    """Pictures as a camera would give them, so that opening them costs what it does."""
    rng = np.random.default_rng(0)
    for index in range(PICTURES):
        small = PIL.Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
        small.resize((1024, 768), PIL.Image.Resampling.BICUBIC).save(folder / f"{index}.jpg", quality=92)


def recipe(name, model, resolution, steps, folder):
    """Processor seconds of every step of the recipe."""
    import importlib

    from services.trainer.arguments import validated
    from services.trainer.progress import Progress

    marks = []

    class Timed(Progress):
        def begin(self, first_step, board_dir):
            super().begin(first_step, board_dir)
            marks.append(time.process_time())

        def step(self, *facts, show):
            marks.append(time.process_time())

        def epoch(self, *facts):
            pass

    package = f"services.trainer.recipes.{name.split(',')[0]}"
    settings = {
        "model_id": model, "resolution": resolution, "max_train_steps": steps, "output_dir": folder.parent / "result",
        "tensorboard": False, "device": "cpu",
    }  # fmt: skip
    if name == "style":
        settings |= {"dataset_dir": folder, "prompt": PROMPT}
    else:
        settings |= {"instance_data_dir": folder, "instance_prompt": PROMPT, "train_text_encoder": "text" in name}
    config = validated(importlib.import_module(f"{package}.config").Config, settings)
    importlib.import_module(f"{package}.train").run(config, Timed())
    return np.diff(marks).tolist()


def plain(name, model, resolution, steps, folder):
    """Processor seconds of every step of the plain loop."""
    import torch
    from diffusers import DDPMScheduler, StableDiffusionPipeline
    from peft import LoraConfig

    from narrative.catalogue import Catalogue
    from narrative.settings import CommonSettings

    chosen = RECIPES[name]
    path = Catalogue().resolve(model, CommonSettings().models_dir)
    pipeline = StableDiffusionPipeline.from_pretrained(path, dtype=torch.float32, safety_checker=None)
    unet, vae, text_encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    for part in (unet, vae, text_encoder):
        part.requires_grad_(False)
    adapter = {"r": 16, "lora_alpha": chosen["alpha"], "lora_dropout": chosen["dropout"]}
    unet.add_adapter(LoraConfig(**adapter, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    if chosen["text"]:
        text_encoder.add_adapter(LoraConfig(**adapter, target_modules=["q_proj", "k_proj", "v_proj", "out_proj"]))
    trained = [p for part in (unet, text_encoder) for p in part.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    files = sorted(folder.iterdir())
    durations = []
    position = 0
    for _ in range(steps):
        started = time.process_time()
        # An epoch's last step is smaller where the pictures do not divide.
        passes = min(chosen["accumulation"], PICTURES - position % PICTURES)
        for _ in range(passes):
            picture = PIL.Image.open(files[position % PICTURES]).convert("RGB")
            position += 1
            if not chosen["flip"]:
                side = min(picture.size)
                left, top = (picture.width - side) // 2, (picture.height - side) // 2
                picture = picture.crop((left, top, left + side, top + side))
            pixels = torch.from_numpy(np.asarray(picture.resize((resolution, resolution)), np.float32))
            pixels = pixels.permute(2, 0, 1)[None] / 127.5 - 1
            if chosen["flip"] and torch.rand(()) < 0.5:
                pixels = pixels.flip(-1)
            with torch.no_grad():
                latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            ids = pipeline.tokenizer(PROMPT, padding="max_length", max_length=77, return_tensors="pt").input_ids
            states = text_encoder(ids)[0]
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, schedule.config.num_train_timesteps, (1,))
            noisy = schedule.add_noise(latents, noise, timesteps)
            target = schedule.get_velocity(latents, noise, timesteps)
            if schedule.config.prediction_type == "epsilon":
                target = noise
            loss = torch.nn.functional.mse_loss(unet(noisy, timesteps, states).sample, target)
            (loss / passes).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        durations.append(time.process_time() - started)
    return durations


def worker(options):
    import torch

    torch.set_num_threads(options.threads)
    work = {"recipe": recipe, "plain": plain}[options.way]
    durations = work(options.recipe, options.model, options.resolution, options.steps, options.pictures)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # The first steps choose kernels.
    print(json.dumps({"step_s": statistics.median(durations[2:]), "peak_mib": peak_mib}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="storybook")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--recipe", choices=RECIPES)
    parser.add_argument("--way", choices=["recipe", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--pictures", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        worker(options)
        return
    shared = ["--model", options.model, "--resolution", options.resolution, "--steps", options.steps]
    shared += ["--threads", options.threads]
    print(f"{'recipe':26s} {'plain':>14s} {'recipe':>14s}   ratios (time, memory)")
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        make_pictures(pictures)
        for name in [options.recipe] if options.recipe else RECIPES:
            seen = {"plain": [], "recipe": []}
            for _ in range(options.rounds):
                for way, found in seen.items():
                    command = [sys.executable, "-m", "benchmarks.train", "--way", way, "--recipe", name, *shared]
                    command = [*map(str, command), "--pictures", str(pictures)]
                    done = subprocess.run(command, check=True, capture_output=True)
                    found.append(json.loads(done.stdout.splitlines()[-1]))
            step = {way: statistics.median(one["step_s"] for one in found) for way, found in seen.items()}
            peak = {way: statistics.median(one["peak_mib"] for one in found) for way, found in seen.items()}
            ways = [f"{step[way]:.3f} s {peak[way]:4.0f} MiB" for way in ("plain", "recipe")]
            ratios = f"{step['recipe'] / step['plain']:.2f}, {peak['recipe'] / peak['plain']:.2f}"
            print(f"{name:26s} {ways[0]:>14s} {ways[1]:>14s}   {ratios}", flush=True)


if __name__ == "__main__":
    main()
