"""What does the service save over plain diffusers, and does a picture stay the same? Ratios from one run.

    python -m benchmarks.diffusion [MODEL] [--pictures 4] [--rounds 3] [--steps 20] [--compile]

Compares, with the same model, steps and prompts: plain diffusers, `pipe(prompt)` one picture after another; the service
over gRPC one call after another, with prompts it has seen before and without keeping their embeddings; all calls at
once (drawn together, exact); and all at once with pictures_per_call=0 (one network call for the whole batch), compiled
too with --compile. On a GPU plain diffusers runs in float16 and the service in what it chooses; on a CPU both in
float32. Last, the share of the hardware's own speed at matrix products that one UNet call reaches.
"""

import argparse
import asyncio
import contextlib
import io
import os
import statistics
import sys
import time

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline
from torch.utils.flop_counter import FlopCounterMode

from narrative.catalogue import Catalogue
from narrative.runtime.channel import open_channel
from narrative.runtime.server import ServiceServer
from narrative.settings import CommonSettings
from narrative.v1 import diffusion_pb2, diffusion_pb2_grpc
from services.diffusion.__main__ import make_service
from services.diffusion.settings import DiffusionSettings

HAS_GPU = torch.cuda.is_available()
PROMPTS = ("a cat in a forest", "a house by the sea", "a dog on a street at night", "a boat on a lake")


async def draw(channel, prompt, seed, steps):
    request = diffusion_pb2.GenerateImagesRequest(prompt=prompt, seed=seed, num_inference_steps=steps)
    png = b""
    async for response in diffusion_pb2_grpc.DiffusionServiceStub(channel).GenerateImages(request):
        png += response.chunk.data
    with PIL.Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


@contextlib.asynccontextmanager
async def serving(model, **settings):
    chosen = DiffusionSettings(models=[model], port=0, dtype="auto" if HAS_GPU else "float32", **settings)
    server = ServiceServer(make_service(chosen), chosen)
    port = await server.start()
    await server.load()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop()


async def measure(options, jobs):
    """Median seconds and processor seconds a picture by way of drawing, the pictures, and the plain pipeline."""
    steps = options.steps
    path = Catalogue().resolve(options.model, CommonSettings().models_dir)
    plain = DiffusionPipeline.from_pretrained(path, dtype=torch.float16 if HAS_GPU else torch.float32)
    plain.to("cuda" if HAS_GPU else "cpu").set_progress_bar_config(disable=True)

    def plain_round():
        for prompt, seed in jobs:
            # The service hands over a PNG, so the plain way has to make one too.
            generator = torch.Generator("cpu").manual_seed(seed)
            picture = plain(prompt, num_inference_steps=steps, generator=generator).images[0]
            picture.save(io.BytesIO(), "PNG", compress_level=4)

    async def one_by_one(channel):
        return [await draw(channel, prompt, seed, steps) for prompt, seed in jobs]

    async def together(channel):
        return await asyncio.gather(*(draw(channel, prompt, seed, steps) for prompt, seed in jobs))

    batched = {"batch_window_ms": 100, "max_batch_size": len(jobs)}
    ways = {
        "one by one": (one_by_one, {"batch_window_ms": 0}),
        "one by one, no embeddings kept": (one_by_one, {"batch_window_ms": 0, "text_cache_bytes": 0}),
        "together": (together, batched),
        "one call a batch": (together, {**batched, "pictures_per_call": 0}),
    }
    if options.compile:
        ways["one call a batch, compiled"] = (together, {**batched, "pictures_per_call": 0, "compile": True})
    seconds = {name: [] for name in ("plain diffusers", *ways)}
    processor_s = {name: [] for name in seconds}
    pictures = {}

    async def timed(name, work):
        started_s, began_s = time.perf_counter(), time.process_time()
        made = await work
        seconds[name].append((time.perf_counter() - started_s) / len(jobs))
        processor_s[name].append((time.process_time() - began_s) / len(jobs))
        return made

    async with contextlib.AsyncExitStack() as running:
        channels = {name: await running.enter_async_context(serving(options.model, **ways[name][1])) for name in ways}
        # Taking turns, so that a busy spell of the machine hits every way alike.
        for _ in range(options.rounds):
            await timed("plain diffusers", asyncio.to_thread(plain_round))
            for name, (work, _) in ways.items():
                pictures[name] = await timed(name, work(channels[name]))
    medians = {
        name: (statistics.median(values), statistics.median(processor_s[name])) for name, values in seconds.items()
    }
    return medians, pictures, plain


def matmul_share(pipeline):
    """How fast one call of the denoiser is, as a share of a large matrix product's speed on the same device."""
    denoiser = pipeline.unet
    side, device, dtype = denoiser.config.sample_size, denoiser.device, denoiser.dtype
    config = denoiser.config
    given = [
        torch.randn(2, config.in_channels, side, side, device=device, dtype=dtype),
        torch.tensor(10, device=device),
        torch.randn(2, 77, config.cross_attention_dim, device=device, dtype=dtype),
    ]
    more = {}
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        more["added_cond_kwargs"] = {
            "text_embeds": torch.randn(2, pooled, device=device, dtype=dtype),
            "time_ids": torch.zeros(2, 6, device=device, dtype=dtype),
        }
    square = torch.randn(8192 if HAS_GPU else 2048, 8192 if HAS_GPU else 2048, device=device, dtype=dtype)

    def speed(work):
        """Floating-point operations a second, at the best of several."""
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            work()
        # Processor time, where that is what computes: it does not count what others take of a busy machine.
        clock = time.perf_counter if HAS_GPU else time.process_time
        times = []
        for _ in range(7):
            started_s = clock()
            with torch.inference_mode():
                work()
            if HAS_GPU:
                torch.cuda.synchronize()
            times.append(clock() - started_s)
        return counter.get_total_flops() / min(times)

    return speed(lambda: denoiser(*given, **more)), speed(lambda: square @ square)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="storybook")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="also with a compiled denoiser; minutes of warm-up")
    options = parser.parse_args()
    jobs = [(PROMPTS[index % len(PROMPTS)], index) for index in range(options.pictures)]
    print(f"load average {os.getloadavg()[0]:.1f}")
    medians, pictures, plain = asyncio.run(measure(options, jobs))
    base_s, base_processor_s = medians["plain diffusers"]
    for name, (wall_s, processor_s) in medians.items():
        times_as_many, share = base_s / wall_s, processor_s / base_processor_s
        print(
            f"{name:32s} {wall_s:7.3f} s a picture, {wall_s / base_s:.2f} of plain, {times_as_many:.2f} times as many; "
            f"processor {processor_s:7.3f} s, {share:.2f} of plain"
        )
    reached, ceiling = matmul_share(plain)
    share = reached / ceiling
    print(f"UNet call: {reached / 1e9:.0f} Gflop/s, {share:.2f} of a large matrix product's {ceiling / 1e9:.0f}")
    lone = pictures["one by one"]
    for name in pictures:
        worst = max(int(abs(a - b).max()) for a, b in zip(lone, pictures[name], strict=True))
        print(f"{name:32s} differs from one by one by at most {worst} of 255")
    if any(
        (a != b).any()
        for name in ("together", "one by one, no embeddings kept")
        for a, b in zip(lone, pictures[name], strict=True)
    ):
        sys.exit("a picture was not the same")


if __name__ == "__main__":
    main()
