"""A sheet of pictures for held-out prompts, one seed each, nothing picked."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from services.trainer.storybook.captions import QUALITY_TAIL
from services.trainer.storybook.diffusers_parts import StableDiffusionPipeline

PROMPTS = (
    f"a little girl sitting on the green grass next to a big dog, storybook illustration, {QUALITY_TAIL}",
    f"a red apple on a wooden table to the right of the window, {QUALITY_TAIL}",
    f"cars on a city street, red car, blue car, flat design, {QUALITY_TAIL}",
    f"a man in a blue jacket crossing the street holding a black umbrella, {QUALITY_TAIL}",
    f"high mountains covered with snow and a quiet lake, {QUALITY_TAIL}",
    f"a person to the left of a white bus on the street, {QUALITY_TAIL}",
    f"two cats sleeping on a soft sofa, a cat near the window, {QUALITY_TAIL}",
    f"a cup of coffee and an open book on a table, {QUALITY_TAIL}",
    "an old lighthouse above a foggy harbour, storybook illustration",
    "a fox in the forest at night, storybook illustration",
    "a sailboat on the sea at sunset, watercolor painting",
    "a rocket flying among the stars in outer space",
    "a house in the snow at night, snow is falling",
    "a woman in a red dress under a tree in a meadow",
    "dolphin and fish under water, flat design",
    "an old man on the beach at sunset, pencil sketch",
    # From here on things are where training never had them (`plan.is_held_out`).
    f"a brown horse in the forest in the fog, storybook illustration, {QUALITY_TAIL}",
    f"a girl in a yellow dress in the garden, flat design, {QUALITY_TAIL}",
    f"a tractor on a village lane in the rain, {QUALITY_TAIL}",
    f"a farmer in the snow in the morning, storybook illustration, {QUALITY_TAIL}",
    "a black cat in a meadow at night, storybook illustration",
    "a dog in front of a castle at sunset, soft 3d cartoon",
    "a witch in a purple dress on the street at night, storybook illustration",
    "an old woman in the kitchen, watercolor painting",
    "a bird under the moon and stars in the night sky, flat design",
    "a house in the forest, snow is falling, oil painting",
    "a man in a green coat in a castle courtyard, pixel art",
    "a church by a lake at sunset, watercolor painting",
    "a helicopter above high mountains covered with snow, flat design",
    "a princess in a pink dress in a flower garden, soft 3d cartoon",
    "a butterfly in a field of flowers, storybook illustration",
    "an old man in the classroom, pencil sketch",
)


class PipelineIllustrator:
    """Draws with an exported model, one picture at a time."""

    def __init__(self, folder: Path, steps: int, guidance_scale: float) -> None:
        """Raises: FileNotFoundError: if there is no model in the folder."""
        if not (folder / "model_index.json").exists():
            raise FileNotFoundError(f"no exported model in {folder}")
        self._pipeline = StableDiffusionPipeline.from_pretrained(folder)
        self._pipeline.set_progress_bar_config(disable=True)
        self._settings = {"num_inference_steps": steps, "guidance_scale": guidance_scale}

    @property
    def size_px(self) -> int:
        """Side of the pictures."""
        return int(self._pipeline.unet.config.sample_size) * int(self._pipeline.vae_scale_factor)

    def draw(self, prompt: str, seed: int) -> Image.Image:
        """Return the picture of a prompt and a seed."""
        result = self._pipeline(prompt, generator=torch.Generator().manual_seed(seed), **self._settings)
        image: Image.Image = result.images[0]
        return image


def draw(
    pipeline: StableDiffusionPipeline, steps: int, guidance_scale: float, seed: int
) -> tuple[list[Image.Image], float]:
    """Return one picture per prompt, and the mean seconds a picture took."""
    pipeline.set_progress_bar_config(disable=True)
    images, started = [], time.monotonic()
    for prompt in PROMPTS:
        generator = torch.Generator().manual_seed(seed)
        result = pipeline(prompt, num_inference_steps=steps, guidance_scale=guidance_scale, generator=generator)
        images.append(result.images[0])
    return images, (time.monotonic() - started) / len(PROMPTS)


def compose(images: list[Image.Image], tile_px: int = 192) -> Image.Image:
    """Lay the pictures out four in a row, each over its prompt."""
    text_px, columns = 66, 4
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (tile_px + 8) + 8, rows * (tile_px + text_px + 8) + 8), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for index, (image, prompt) in enumerate(zip(images, PROMPTS, strict=True)):
        x, y = 8 + index % columns * (tile_px + 8), 8 + index // columns * (tile_px + text_px + 8)
        sheet.paste(image.resize((tile_px, tile_px), Image.Resampling.LANCZOS), (x, y))
        short = prompt.removesuffix(f", {QUALITY_TAIL}")
        pen.multiline_text((x, y + tile_px + 2), "\n".join(textwrap.wrap(short, 34)[:4]), fill="black", font=font)
    return sheet


def write(folder: Path, path: Path, steps: int, guidance_scale: float, seed: int = 0) -> float:
    """Draw the sheet of an exported model into a PNG file; return the mean seconds a picture took."""
    return write_with(StableDiffusionPipeline.from_pretrained(folder), path, steps, guidance_scale, seed)


def write_with(
    pipeline: StableDiffusionPipeline, path: Path, steps: int, guidance_scale: float, seed: int = 0
) -> float:
    """Draw the sheet of a pipeline into a PNG file; return the mean seconds a picture took."""
    images, seconds = draw(pipeline, steps, guidance_scale, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    compose(images).quantize(192).save(path, optimize=True)
    return seconds
