"""Does batching pay, what does gRPC cost, and does a picture stay the same? Ratios from one run.

    python benchmarks/diffusion.py [MODEL] [--pictures 4] [--rounds 3] [--steps 20]

Compares, with the same model, steps and prompts: the bare diffusers pipeline one picture after another, the service
over gRPC one call after another, all calls at once (drawn together, exact), and all at once with pictures_per_call=0
(one network call for the whole batch).
"""

import argparse
import asyncio
import io
import statistics
import sys
import time

import numpy as np
import PIL.Image
import torch
from diffusers import StableDiffusionPipeline

from narrative.catalogue import Catalogue
from narrative.runtime.channel import open_channel
from narrative.runtime.server import ServiceServer
from narrative.settings import CommonSettings
from narrative.v1 import diffusion_pb2, diffusion_pb2_grpc
from services.diffusion.__main__ import make_service
from services.diffusion.settings import DiffusionSettings

PROMPTS = ("a cat in a forest", "a house by the sea", "a dog on a street at night", "a boat on a lake")


async def draw(channel, prompt, seed, steps):
    request = diffusion_pb2.GenerateImagesRequest(prompt=prompt, seed=seed, num_inference_steps=steps)
    png = b""
    async for response in diffusion_pb2_grpc.DiffusionServiceStub(channel).GenerateImages(request):
        png += response.chunk.data
    with PIL.Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


async def with_service(model, work, **settings):
    chosen = DiffusionSettings(models=[model], port=0, dtype="float32", **settings)
    server = ServiceServer(make_service(chosen), chosen)
    port = await server.start()
    await server.load()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            return await work(channel)
    finally:
        await server.stop()


async def measure(model, jobs, rounds, steps):
    """Median seconds a picture by way of drawing, and the pictures of each way."""
    path = Catalogue().resolve(model, CommonSettings().models_dir)
    bare = StableDiffusionPipeline.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
    bare.set_progress_bar_config(disable=True)
    bare.unet.to(memory_format=torch.channels_last)

    def bare_round():
        for prompt, seed in jobs:
            # The service hands over a PNG, so the bare way has to make one too.
            generator = torch.Generator("cpu").manual_seed(seed)
            picture = bare(prompt, num_inference_steps=steps, generator=generator, guidance_scale=4.0).images[0]
            picture.save(io.BytesIO(), "PNG", compress_level=4)

    async def one_by_one(channel):
        return [await draw(channel, prompt, seed, steps) for prompt, seed in jobs]

    async def together(channel):
        return await asyncio.gather(*(draw(channel, prompt, seed, steps) for prompt, seed in jobs))

    batched = {"batch_window_ms": 100, "max_batch_size": len(jobs)}
    seconds = {name: [] for name in ("bare pipeline", "gRPC, one by one", "gRPC, together", "gRPC, one call a batch")}
    pictures = {}

    async def timed(name, work):
        started_s = time.perf_counter()
        pictures[name] = await work
        seconds[name].append((time.perf_counter() - started_s) / len(jobs))

    async def all_ways(lone):
        async def exact(channel_exact):
            async def whole(channel_whole):
                # Taking turns, so that a busy spell of the machine hits every way alike.
                for _ in range(rounds):
                    await timed("bare pipeline", asyncio.to_thread(bare_round))
                    await timed("gRPC, one by one", one_by_one(lone))
                    await timed("gRPC, together", together(channel_exact))
                    await timed("gRPC, one call a batch", together(channel_whole))

            await with_service(model, whole, pictures_per_call=0, **batched)

        await with_service(model, exact, **batched)

    await with_service(model, all_ways, batch_window_ms=0)
    return {name: statistics.median(values) for name, values in seconds.items()}, pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="storybook")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    jobs = [(PROMPTS[index % len(PROMPTS)], index) for index in range(options.pictures)]
    seconds, pictures = asyncio.run(measure(options.model, jobs, options.rounds, options.steps))
    base = seconds["bare pipeline"]
    for name, value in seconds.items():
        print(f"{name:24s} {value:7.3f} s a picture  {value / base:5.2f} x bare")
    lone = pictures["gRPC, one by one"]
    for name in ("gRPC, together", "gRPC, one call a batch"):
        worst = max(int(abs(a - b).max()) for a, b in zip(lone, pictures[name], strict=True))
        print(f"{name:24s} differs from one by one by at most {worst} of 255")
    if any((a != b).any() for a, b in zip(lone, pictures["gRPC, together"], strict=True)):
        sys.exit("a picture was not the same alone and in a batch")


if __name__ == "__main__":
    main()
