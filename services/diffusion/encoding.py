"""Turns the texts and the source picture of one picture into the tensors its pipeline takes.

Every picture is encoded by itself, so that its tensors do not depend on its neighbours in a batch.
"""

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import torch

from services.diffusion.model_folder import Family
from services.diffusion.plan import Picture
from services.diffusion.text_cache import Tensors, TextCache

_FLUX_TOKENS = 512


def encode(
    pipeline: Any, family: Family, pictures: Sequence[Picture], cache: TextCache, text_state: Hashable
) -> dict[str, torch.Tensor]:
    """Keyword arguments for the call of the pipeline, one row a picture.

    Args:
        text_state: what the text encoders depend on beside their own weights.
    """
    encoded = []
    for picture in pictures:
        key = (picture.prompt, picture.negative_prompt, _guided(picture), text_state)
        make = partial(_TEXT_ENCODERS[family], pipeline, picture)
        encoded.append({**cache.get(key, make, pipeline._execution_device), **_encode_source(pipeline, picture)})
    return {name: torch.cat([one[name] for one in encoded]) for name in encoded[0]}


def dropped_text(pipeline: Any, family: Family, prompt: str) -> str:
    """The end of a prompt that the text encoder does not see because it reads only so many tokens; usually ""."""
    tokenizer = pipeline.tokenizer_2 if family == "flux" else pipeline.tokenizer
    most = _FLUX_TOKENS if family == "flux" else tokenizer.model_max_length
    ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
    return str(tokenizer.decode(ids[most - 1 : -1], skip_special_tokens=True)) if len(ids) > most else ""


def _guided(picture: Picture) -> bool:
    return picture.settings.guidance_scale > 1


def _negative(picture: Picture) -> str | None:
    return picture.negative_prompt if picture.settings.has_negative_prompt else None


def _encode_sd(pipeline: Any, picture: Picture) -> Tensors:
    positive, negative = pipeline.encode_prompt(
        picture.prompt, pipeline._execution_device, 1, _guided(picture), _negative(picture)
    )
    return _given(prompt_embeds=positive, negative_prompt_embeds=negative if _guided(picture) else None)


def _encode_sdxl(pipeline: Any, picture: Picture) -> Tensors:
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    tensors = pipeline.encode_prompt(
        picture.prompt,
        device=pipeline._execution_device,
        do_classifier_free_guidance=_guided(picture),
        negative_prompt=_negative(picture),
    )
    return _given(**dict(zip(names, tensors, strict=True)))


def _encode_flux(pipeline: Any, picture: Picture) -> Tensors:
    def tensors(prompt: str) -> tuple[Any, Any]:
        embeds, pooled, _ = pipeline.encode_prompt(
            prompt, None, device=pipeline._execution_device, max_sequence_length=_FLUX_TOKENS
        )
        return embeds, pooled

    positive, pooled = tensors(picture.prompt)
    encoded = {"prompt_embeds": positive, "pooled_prompt_embeds": pooled}
    if picture.settings.has_negative_prompt and _guided(picture):
        negative, negative_pooled = tensors(picture.negative_prompt)
        encoded |= {"negative_prompt_embeds": negative, "negative_pooled_prompt_embeds": negative_pooled}
    return encoded


def _encode_pix2pix(pipeline: Any, picture: Picture) -> Tensors:
    guided = _guided(picture)
    embeds = pipeline._encode_prompt(
        picture.prompt, pipeline._execution_device, 1, guided, picture.negative_prompt if guided else None
    )
    # The pipeline stacks text, image and unconditional branch; the last two see the same negative prompt.
    positive, negative = (embeds[:1], embeds[1:2]) if guided else (embeds, None)
    return _given(prompt_embeds=positive, negative_prompt_embeds=negative)


def _encode_source(pipeline: Any, picture: Picture) -> Tensors:
    """The picture to edit, or the frames of a video, where there is one."""
    if picture.source is None:
        return {}
    frames = pipeline.image_processor.preprocess([picture.source, *picture.later_frames])
    frames = frames.to(pipeline._execution_device, pipeline.vae.dtype)
    # One frame behind the other in the channels of one row, as it was trained.
    return {"image": pipeline.vae.encode(frames).latent_dist.mode().flatten(0, 1)[None]}


def _given(**tensors: torch.Tensor | None) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


_TEXT_ENCODERS = {"sd": _encode_sd, "sdxl": _encode_sdxl, "flux": _encode_flux, "pix2pix": _encode_pix2pix}
