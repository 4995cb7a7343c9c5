"""One speaker's way from lines to pictures; speakers share nothing, so each goes at its own pace."""

import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from gateway.clients import Drawn, Services
from gateway.options import NarrativeOptions
from gateway.progress import Progress
from gateway.store import image_key
from narrative.errors import ModelOutputInvalid
from narrative.v1 import common_pb2, diffusion_pb2, prompt_pb2

ENGLISH = "en"
IDENTITY = "identity"
# The speech model's own translation, made while transcribing.
WHISPER = "whisper"

StepDone = Callable[[int, int, int], None]
ImageDone = Callable[[dict[str, Any]], None]


def readable_languages(models: Sequence[common_pb2.Model]) -> frozenset[str]:
    """Languages that the default scene writer reads; empty for no limits."""
    writers = [model for model in models if model.task == common_pb2.TASK_SCENE_WRITING]
    default = next((model for model in writers if model.is_default), writers[0] if writers else None)
    return frozenset(default.languages) if default else frozenset()


def description_language(segments: Sequence[dict[str, Any]], readable: frozenset[str]) -> str:
    """The language to describe a speaker in: the one mostly spoken where it is read, else English where that is."""
    spoken_s: Counter[str] = Counter()
    for segment in segments:
        spoken_s[segment["language"]] += segment["end_s"] - segment["start_s"]
    main = spoken_s.most_common(1)[0][0]
    if not readable or main in readable:
        return main
    return ENGLISH if ENGLISH in readable else min(readable)


async def describe(
    services: Services, speaker: str, segments: Sequence[dict[str, Any]], options: NarrativeOptions
) -> dict[str, Any]:
    """Writes the scene of one speaker and its prompt in English.

    Lines in a language that the scene writer does not read are translated first, line by line, so that a speaker may
    mix languages; where the prompt that comes out is not English it is translated last. Of a speaker of whose lines a
    translation leaves nothing the scene is that of somebody who talks.

    Returns:
        The speaker's entry of story.json without its pictures, and "lines": segment id -> its texts.
    """
    readable = readable_languages(await services.models("prompt"))
    language = description_language(segments, readable)
    target = ENGLISH if ENGLISH in readable else language
    unread = [segment for segment in segments if readable and segment["language"] not in readable]
    translated, engine = await _translate_lines(services, unread, target, options.translation_engine)

    lines = [
        prompt_pb2.Line(
            id=segment["id"],
            speaker=speaker,
            text=translated.get(segment["id"], segment["text"]),
            start_s=segment["start_s"],
            end_s=segment["end_s"],
        )
        for segment in segments
    ]
    response = await services.describe(
        prompt_pb2.DescribeSpeakerRequest(speaker=speaker, lines=lines, language=language, style=options.style)
    )
    scene = response.scene
    prompt = scene.visual_prompt
    if language != ENGLISH:
        asked = "" if options.translation_engine == WHISPER else options.translation_engine
        (prompt,), engine = await services.translate([prompt], language, ENGLISH, asked)
    normalized = {line.line.id: line.normalized_text for line in response.lines}
    texts = {
        segment["id"]: _texts(segment, translated.get(segment["id"]), normalized.get(segment["id"]), target)
        for segment in segments
    }
    return {
        "speaker": speaker,
        "text": " ".join(text["normalized_text"] for text in texts.values()) if translated else scene.text,
        "english_text": scene.text if language == ENGLISH else "",
        "scene": scene.scene,
        "style": scene.style,
        "details": list(scene.details),
        "visual_prompt": scene.visual_prompt,
        "prompt": prompt,
        "translation_engine": engine,
        # Keys of JSON objects are strings, and what is kept between steps should not depend on how it is kept.
        "lines": {str(segment_id): text for segment_id, text in texts.items()},
    }


def _texts(segment: dict[str, Any], translation: str | None, normalized: str | None, target: str) -> dict[str, str]:
    if translation is None:
        texts = {"normalized_text": normalized or segment["text"]}
        english = texts["normalized_text"] if segment["language"] == ENGLISH else segment["english_text"]
    else:
        # The scene writer mended the translation; nobody mended what was said.
        texts = {"normalized_text": segment["text"]}
        english = (normalized or translation) if target == ENGLISH else segment["english_text"]
        # A gloss of "угу, ну вот." is a full stop.
        english = english if any(map(str.isalnum, english)) else ""
    return texts | ({"english_text": english} if english else {})


async def _translate_lines(
    services: Services, segments: Sequence[dict[str, Any]], target: str, engine: str
) -> tuple[dict[int, str], str]:
    """Segment id -> translation, and the engine that made it."""
    if not segments:
        return {}, IDENTITY
    if engine == WHISPER and target == ENGLISH:
        return {segment["id"]: segment["english_text"] for segment in segments}, WHISPER
    by_language: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for segment in segments:
        by_language[segment["language"]].append(segment)
    translated: dict[int, str] = {}
    used = IDENTITY
    for language, lines in by_language.items():
        texts, used = await services.translate([line["text"] for line in lines], language, target, engine)
        translated |= {line["id"]: text for line, text in zip(lines, texts, strict=True)}
    return translated, used


async def draw(
    services: Services,
    progress: Progress,
    narrative_id: str,
    first_index: int,
    prompt: str,
    seed: int,
    options: NarrativeOptions,
    on_step: StepDone,
    on_image: ImageDone,
) -> list[dict[str, Any]]:
    """Draws the pictures of one speaker; those that were drawn already are not drawn again.

    Args:
        first_index: number of the speaker's first picture within the narrative; picture n is drawn with seed + n.

    Returns:
        Entries {"index", "seed", "width", "height"} in order.
    """
    images: dict[int, dict[str, Any]] = {}
    for index in range(first_index, first_index + options.num_images):
        header = await progress.head(image_key(narrative_id, index), 24)
        if header is not None:
            images[index] = _entry(index, seed + index, *png_size(header))
            on_image(images[index])
    missing = [index for index in range(first_index, first_index + options.num_images) if index not in images]
    for start, count in _runs(missing):
        request = drawing_request(options, prompt, seed + start, count)
        async for item in services.generate(request):
            if isinstance(item, Drawn):
                index = start + item.image_index
                images[index] = _entry(index, item.seed, item.width, item.height)
                progress.put_picture(image_key(narrative_id, index), item.png, partial(on_image, images[index]))
            else:
                on_step(start + item.image_index, item.step, item.num_steps)
    if len(images) != options.num_images:
        raise ModelOutputInvalid(f"diffusion sent {len(images)} of {options.num_images} pictures")
    return [images[index] for index in sorted(images)]


def drawing_request(options: Any, prompt: str, seed: int | None, count: int) -> diffusion_pb2.GenerateImagesRequest:
    """The gRPC request for ``count`` pictures with the DrawingOptions ``options``."""
    request = diffusion_pb2.GenerateImagesRequest(
        model=options.model,
        prompt=prompt,
        negative_prompt=options.negative_prompt,
        num_images=count,
        num_inference_steps=options.num_inference_steps or 0,
        width=options.width or 0,
        height=options.height or 0,
        scheduler=options.scheduler,
    )
    if seed is not None:
        request.seed = seed
    if options.guidance_scale is not None:
        request.guidance_scale = options.guidance_scale
    for adapter in options.adapters:
        message = request.adapters.add(name=adapter.name, weight=adapter.weight)
        if adapter.text_encoder_weight is not None:
            message.text_encoder_weight = adapter.text_encoder_weight
    return request


def png_size(header: bytes) -> tuple[int, int]:
    """Width and height in pixels from the first 24 bytes of a PNG file (PNG specification, 11.2.2)."""
    width, height = struct.unpack(">II", header[16:24])
    return int(width), int(height)


def _entry(index: int, seed: int, width: int, height: int) -> dict[str, Any]:
    return {"index": index, "seed": seed, "width": width, "height": height}


def _runs(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Consecutive numbers as (first, how many)."""
    start = 0
    for position in range(1, len(indices) + 1):
        if position == len(indices) or indices[position] != indices[position - 1] + 1:
            yield indices[start], position - start
            start = position
