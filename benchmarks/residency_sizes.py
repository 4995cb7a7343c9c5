"""Large weights by turns, and back from where they were: python -m benchmarks.residency_sizes [copy|turns] [--shrink 4]

Models of the documents' architectures (Whisper large, a 3B language model, the UNet of SDXL) with random weights. On a
GPU they have their true sizes; elsewhere --shrink divides widths and depths, and the device is a declared one, where a
copy to the device is a copy between two buffers of host memory.

copy    bringing the picture model back, against one plain copy of as many bytes, and against a new pipeline from disk.
turns   transcription, writing and drawing by turns under a budget that holds one of them, against all of them resident.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, WhisperConfig, WhisperForConditionalGeneration

from benchmarks.residency import residency
from narrative.catalogue import Catalogue
from narrative.runtime.residency import ResidencyClient
from narrative.settings import CommonSettings
from services.diffusion.packed_weights import PackedWeights
from services.diffusion.pipelines import quiet_libraries

HAS_GPU = torch.cuda.is_available()
PLACE = "cuda:0" if HAS_GPU else "host:0"
DEVICE = torch.device("cuda:0" if HAS_GPU else "cpu")
DTYPE = torch.float16 if HAS_GPU else torch.float32
ROUNDS = 3


@dataclass(frozen=True)
class Stage:
    """A model and what it does when its turn comes."""

    name: str
    model: nn.Module
    work: Callable[[nn.Module], object]


def stages(shrink: int) -> list[Stage]:
    """Transcription, writing and drawing."""

    def transcribe(model: nn.Module) -> object:
        audio = torch.zeros(1, 128, 3000, dtype=DTYPE, device=DEVICE)
        return model.generate(audio, max_new_tokens=16, min_new_tokens=16)

    def write(model: nn.Module) -> object:
        prompt = torch.arange(1, 257, device=DEVICE)[None]
        return model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, min_new_tokens=16)

    def draw(model: nn.Module) -> object:
        side, steps = 128 // shrink, max(2, 30 // shrink**2)
        latents = torch.zeros(2, 4, side, side, dtype=DTYPE, device=DEVICE)
        text = torch.zeros(2, 77, 2048 // shrink, dtype=DTYPE, device=DEVICE)
        for step in range(steps):
            latents = model(latents, step, text).sample
        return latents

    whisper = WhisperConfig(
        d_model=1280 // shrink, encoder_layers=32 // shrink**2, decoder_layers=32 // shrink**2, num_mel_bins=128,
        encoder_attention_heads=20 // shrink, decoder_attention_heads=20 // shrink, encoder_ffn_dim=5120 // shrink,
        decoder_ffn_dim=5120 // shrink, vocab_size=51866,
    )  # fmt: skip
    llama = LlamaConfig(
        hidden_size=2048 // shrink, num_hidden_layers=36 // shrink**2, intermediate_size=11008 // shrink,
        num_attention_heads=16 // shrink, num_key_value_heads=2, vocab_size=151936 // shrink**2,
        tie_word_embeddings=True,
    )  # fmt: skip
    return [
        Stage("whisper", _made(lambda: WhisperForConditionalGeneration(whisper)), transcribe),
        Stage("llm", _made(lambda: LlamaForCausalLM(llama)), write),
        Stage("pictures", picture_model(shrink), draw),
    ]


def picture_model(shrink: int) -> nn.Module:
    """SDXL's UNet, but for the size and crop of the picture that it is also told."""
    return _made(
        lambda: UNet2DConditionModel(
            sample_size=128, block_out_channels=(320 // shrink, 640 // shrink, 1280 // shrink),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10 // shrink), attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048 // shrink, use_linear_projection=True, norm_num_groups=32 // shrink,
        )
    )  # fmt: skip


def copy(shrink: int) -> None:
    folder = Catalogue().resolve("storybook", CommonSettings().models_dir)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True, dtype=DTYPE)
    pipeline.register_modules(unet=picture_model(shrink))
    with tempfile.TemporaryDirectory() as stored:
        pipeline.save_pretrained(stored)
        weights = PackedWeights([pipeline.unet, pipeline.vae, pipeline.text_encoder], "memory")
        source = torch.ones(weights.num_bytes, dtype=torch.uint8, pin_memory=HAS_GPU)
        times: dict[str, list[float]] = {name: [] for name in ("plain", "back", "away", "mapped", "disk")}
        for _ in range(ROUNDS):
            times["plain"].append(_timed(lambda: torch.empty_like(source, device=DEVICE).copy_(source)))
            times["back"].append(_timed(lambda: weights.load(PLACE)))
            times["away"].append(_timed(weights.offload))
            for name in ("mapped", "disk"):
                if name == "disk":
                    _forget_pages(Path(stored))
                times[name].append(_timed(lambda: _new_pipeline(stored)))
    plain, back, away, mapped, disk = (statistics.median(values) for values in times.values())
    print(
        f"copy on {PLACE}, {weights.num_bytes / 2**30:.2f} GiB: plain {plain:.3f} s, back {back:.3f} s "
        f"({back / plain:.2f} of it, aim 1.25), away {away:.3f} s; a new pipeline from disk {disk:.2f} s "
        f"({disk / back:.0f} times as long, aim 20), from files in the page cache {mapped:.2f} s "
        f"({mapped / back:.0f} times)"
    )


def turns(shrink: int) -> None:
    resident, moved = stages(shrink), stages(shrink)
    for stage in resident:
        stage.model.to(DEVICE)
    weights = {stage.name: PackedWeights([stage.model], "memory") for stage in moved}
    sizes = {name: one.num_bytes for name, one in weights.items()}
    print(", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in sizes.items()))
    budget = max(sizes.values())
    with residency(f'{{"{PLACE}": {budget}}}', RECOVERY_S="0.1", MIN_RESIDENT_S="0") as target:
        client = ResidencyClient(target, "benchmark", 60)
        for name, one in weights.items():
            client.add(name, one.num_bytes, one)
        client.start()
        with client.lease("whisper"):
            pass

        def by_turns() -> None:
            for stage in moved:
                with client.lease(stage.name):
                    stage.work(stage.model)

        def all_resident() -> None:
            for stage in resident:
                stage.work(stage.model)

        times: dict[str, list[float]] = {"resident": [], "turns": []}
        with torch.inference_mode():
            for _ in range(ROUNDS + 1):
                times["resident"].append(_timed(all_resident))
                times["turns"].append(_timed(by_turns))
        client.close()
    resident_s, turns_s = (statistics.median(values[1:]) for values in times.values())
    print(
        f"turns on {PLACE}, a budget of {budget / 2**30:.2f} GiB: resident {resident_s:.2f} s, "
        f"by turns {turns_s:.2f} s, {turns_s / resident_s:.2f} of it (aim 1.3)"
    )


def _made(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        model = make()
    model = model.to(DTYPE).to_empty(device="cpu").eval().requires_grad_(False)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.fill_(1e-3)
    return model


def _new_pipeline(folder: str) -> None:
    # Weights are mapped at first: sent to their device they are really read.
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True, dtype=DTYPE)
    pipeline.to(DEVICE)
    for tensor in pipeline.unet.parameters():
        tensor.view(-1)[:: 4096 // tensor.element_size()].sum()


def _forget_pages(folder: Path) -> None:
    os.sync()
    for file in folder.rglob("*.safetensors"):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _timed(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    if HAS_GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - started_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["copy", "turns"])
    parser.add_argument("--shrink", type=int, default=1 if HAS_GPU else 4, help="divides widths, and depths twice")
    options = parser.parse_args()
    quiet_libraries()
    print(f"load average {os.getloadavg()[0]:.1f}")
    for part in options.parts:
        {"copy": copy, "turns": turns}[part](options.shrink)


if __name__ == "__main__":
    main()
