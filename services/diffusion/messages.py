"""The messages of the contract as dataclasses, and back."""

import itertools
from collections.abc import Iterator, Sequence

from narrative.errors import InvalidInput
from narrative.v1 import diffusion_pb2
from services.diffusion.engine import Adapter, Image, ImageRequest, Step


def read_request(
    message: diffusion_pb2.GenerateImagesRequest, *, frames: Sequence[bytes] = (), image_guidance: float | None = None
) -> ImageRequest:
    return ImageRequest(
        prompt=message.prompt,
        model=message.model,
        negative_prompt=message.negative_prompt,
        seed=message.seed if message.HasField("seed") else None,
        num_images=message.num_images,
        num_steps=message.num_inference_steps,
        guidance_scale=message.guidance_scale if message.HasField("guidance_scale") else None,
        width=message.width,
        height=message.height,
        scheduler=message.scheduler,
        adapters=tuple(
            Adapter(
                one.name,
                one.weight,
                one.text_encoder_weight if one.HasField("text_encoder_weight") else one.weight,
            )
            for one in message.adapters
        ),
        source=frames[0] if frames else None,
        image_guidance_scale=image_guidance,
        later_frames=tuple(frames[1:]),
    )


def read_options(message: diffusion_pb2.EditOptions, pictures: bytes | None) -> ImageRequest:
    """The request to edit the picture, or the frames that follow each other in ``pictures``; None where there are none.

    Raises:
        InvalidInput: the frames have other sizes than was said.
    """
    image_guidance = message.image_guidance_scale if message.HasField("image_guidance_scale") else None
    frames = [] if pictures is None else _split(pictures, message.frame_bytes)
    return read_request(message.generation, frames=frames, image_guidance=image_guidance)


def _split(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    if not sizes:
        return [data]
    if sum(sizes) != len(data):
        raise InvalidInput(f"frame_bytes add up to {sum(sizes)}; {len(data)} bytes came", field="frame_bytes")
    ends = itertools.accumulate(sizes)
    return [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def write_options(request: ImageRequest) -> diffusion_pb2.EditOptions:
    """Everything but the pictures to edit."""
    generation = diffusion_pb2.GenerateImagesRequest(
        model=request.model,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=request.seed,
        num_images=request.num_images,
        num_inference_steps=request.num_steps,
        guidance_scale=request.guidance_scale,
        width=request.width,
        height=request.height,
        scheduler=request.scheduler,
        adapters=[
            diffusion_pb2.Adapter(name=one.name, weight=one.weight, text_encoder_weight=one.text_encoder_weight)
            for one in request.adapters
        ],
    )
    frames = (request.source, *request.later_frames) if request.source is not None else ()
    return diffusion_pb2.EditOptions(
        generation=generation,
        image_guidance_scale=request.image_guidance_scale,
        frame_bytes=[len(frame) for frame in frames],
    )


def write_step(step: Step) -> diffusion_pb2.Step:
    return diffusion_pb2.Step(image_index=step.image_index, step=step.step, num_steps=step.num_steps)


def write_chunks(image: Image, chunk_bytes: int) -> Iterator[diffusion_pb2.ImageChunk]:
    """A picture in pieces of at most so many bytes."""
    for start in range(0, len(image.png), chunk_bytes):
        yield diffusion_pb2.ImageChunk(
            image_index=image.image_index,
            data=image.png[start : start + chunk_bytes],
            last=start + chunk_bytes >= len(image.png),
            seed=image.seed,
            width=image.width,
            height=image.height,
            duration_s=image.duration_s,
            batch_size=image.batch_size,
        )


def write_event(event: Step | Image) -> diffusion_pb2.GenerateImagesResponse:
    """A step, or a whole picture in one piece."""
    if isinstance(event, Step):
        return diffusion_pb2.GenerateImagesResponse(step=write_step(event))
    (chunk,) = write_chunks(event, len(event.png))
    return diffusion_pb2.GenerateImagesResponse(chunk=chunk)


def read_event(message: diffusion_pb2.GenerateImagesResponse) -> Step | Image:
    """What ``write_event`` wrote."""
    if message.HasField("step"):
        return Step(message.step.image_index, message.step.step, message.step.num_steps)
    chunk = message.chunk
    return Image(
        image_index=chunk.image_index,
        png=chunk.data,
        seed=chunk.seed,
        width=chunk.width,
        height=chunk.height,
        duration_s=chunk.duration_s,
        batch_size=chunk.batch_size,
    )
