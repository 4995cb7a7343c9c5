"""One speaker's way from lines to pictures; speakers share nothing, so each goes at its own pace."""

import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import structlog

from gateway.clients import Drawn, Services, names_of
from gateway.options import NarrativeOptions
from gateway.progress import Progress
from gateway.store import image_key
from narrative.errors import InvalidParameter, ModelOutputInvalid
from narrative.v1 import common_pb2, diffusion_pb2, prompt_pb2

ENGLISH = "en"
IDENTITY = "identity"
# The speech model's own translation, made while transcribing.
WHISPER = "whisper"

log = structlog.get_logger()

StepDone = Callable[[int, int, int], None]
ImageDone = Callable[[dict[str, Any]], None]


def readable_languages(models: Sequence[common_pb2.Model], writer: str = "") -> frozenset[str]:
    """Languages that the scene writer of that name reads, the default one for an empty name; empty for no limits."""
    # One that was added a moment ago is not in every list; it reads what the model reads that it adapts.
    known = writer if writer in names_of(models, common_pb2.TASK_SCENE_WRITING) else ""
    return frozenset(_chosen(models, common_pb2.TASK_SCENE_WRITING, known).languages)


def translator(models: Sequence[common_pb2.Model], engine: str) -> common_pb2.Model:
    """The translation engine of that name, the default one for an empty name; without languages for no limits."""
    return _chosen(models, common_pb2.TASK_TRANSLATION, engine)


def _chosen(models: Sequence[common_pb2.Model], task: "common_pb2.Task", name: str = "") -> common_pb2.Model:
    able = [model for model in models if model.task == task and name in ("", model.id)]
    return next((model for model in able if model.is_default), able[0] if able else common_pb2.Model())


def not_understood(
    spoken: Collection[str], readable: Collection[str], engine: common_pb2.Model, field: str
) -> InvalidParameter:
    """The error of languages that neither the scene writer nor the engine reads; it names those, and the way out."""
    spoken, readable, accepted = (", ".join(sorted(codes)) for codes in (spoken, readable, engine.languages))
    return InvalidParameter(
        f"nobody here reads {spoken}: the scene writer reads {readable}, the translation engine {engine.id!r} "
        f'{accepted}; with translation_engine "{WHISPER}" (narrate story --translation {WHISPER}) the speech model '
        "translates",
        field=field,
    )


def description_language(segments: Sequence[dict[str, Any]], readable: frozenset[str]) -> str:
    """The language to describe a speaker in: the one mostly spoken where it is read, else English where that is."""
    spoken_s: Counter[str] = Counter()
    for segment in segments:
        spoken_s[segment["language"]] += segment["end_s"] - segment["start_s"]
    del spoken_s[""]
    main = spoken_s.most_common(1)[0][0] if spoken_s else ENGLISH
    if not readable or main in readable:
        return main
    return ENGLISH if ENGLISH in readable else min(readable)


async def describe(
    services: Services,
    speaker: str,
    segments: Sequence[dict[str, Any]],
    options: NarrativeOptions,
    spoken: Collection[str] = (),
) -> dict[str, Any]:
    """Writes the scene of one speaker and its prompt in English.

    Lines in a language that the scene writer does not read are translated first, line by line, so that a speaker may
    mix languages; where the prompt that comes out is not English it is translated last. Of a speaker of whose lines a
    translation leaves nothing the scene is that of somebody who talks.

    The language of a short line is easily misheard. Lines in one that the engine does not read are left out, and the
    entry names their languages, as long as anybody says something that is understood.

    Args:
        spoken: languages of all lines of the recording; those of this speaker where none are given.

    Returns:
        The speaker's entry of story.json without its pictures, and "lines": segment id -> its texts.

    Raises:
        InvalidParameter: nothing was said in a language that is read here; names the way out.
    """
    readable = readable_languages(await services.models("prompt"), options.scene_model)
    target = ENGLISH if ENGLISH in readable else description_language(segments, readable)
    unread = [segment for segment in segments if readable and segment["language"] not in readable]
    spoken = {*spoken, *(segment["language"] for segment in segments)}
    translating = await _understood(services, unread, spoken, readable, target, options.translation_engine)
    translated, engine = await _translate_lines(services, translating, target, options.translation_engine)
    left_out = {segment["id"]: "" for segment in unread if segment["id"] not in translated}
    translated |= left_out
    # What nobody understood says nothing about the language of the rest.
    language = description_language([s for s in segments if s["id"] not in left_out] or segments, readable)

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
        prompt_pb2.DescribeSpeakerRequest(
            speaker=speaker, lines=lines, language=language, style=options.style, model=options.scene_model
        )
    )
    scene = response.scene
    prompt = scene.visual_prompt
    if language != ENGLISH:
        (prompt,), engine = await services.translate([prompt], language, ENGLISH, _asked(options.translation_engine))
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
        "left_out_languages": sorted({segment["language"] for segment in segments if segment["id"] in left_out}),
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


async def _understood(
    services: Services,
    unread: Sequence[dict[str, Any]],
    spoken: Collection[str],
    readable: frozenset[str],
    target: str,
    engine: str,
) -> list[dict[str, Any]]:
    """Those of the lines that can be translated.

    Raises:
        InvalidParameter: as ``describe``.
    """
    if not unread or _by_whisper(engine, target):
        return list(unread)
    chosen = translator(await services.models("translation"), _asked(engine))
    accepted = frozenset(chosen.languages)
    # Speech of which not even the language is known has an empty code, which no engine takes.
    understood = [line for line in unread if line["language"] and (not accepted or line["language"] in accepted)]
    if len(understood) < len(unread):
        known = {language for language in spoken if language}
        if known and accepted and not known & (accepted | readable):
            raise not_understood(known, readable, chosen, field="translation_engine")
        strange = Counter(line["language"] for line in unread) - Counter(line["language"] for line in understood)
        log.info("lines left out in languages that nobody reads", engine=chosen.id, lines=dict(strange))
    return understood


def _by_whisper(engine: str, target: str) -> bool:
    return engine == WHISPER and target == ENGLISH


def _asked(engine: str) -> str:
    """What the translation service calls an engine; the speech model's own is none of its."""
    return "" if engine == WHISPER else engine


async def _translate_lines(
    services: Services, segments: Sequence[dict[str, Any]], target: str, engine: str
) -> tuple[dict[int, str], str]:
    """Segment id -> translation, and the engine that made it."""
    if not segments:
        return {}, IDENTITY
    if _by_whisper(engine, target):
        return {segment["id"]: segment["english_text"] for segment in segments}, WHISPER
    by_language: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for segment in segments:
        by_language[segment["language"]].append(segment)
    translated: dict[int, str] = {}
    used = IDENTITY
    for language, lines in by_language.items():
        texts, used = await services.translate([line["text"] for line in lines], language, target, _asked(engine))
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
