"""One diffusers pipeline: loading it, and drawing a batch with it."""

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import PIL.Image
import torch
import transformers

from narrative.errors import InvalidParameter, OutOfMemory, WeightsError
from narrative.runtime.device_memory import is_out_of_memory, trying_twice
from services.diffusion.adapters import AdapterCache
from services.diffusion.compiling import compiled
from services.diffusion.drawing_thread import Batch, Drawn
from services.diffusion.edit_pipeline import EditPipeline
from services.diffusion.encoding import dropped_text, encode
from services.diffusion.hot_swap import HotSwappedAdapters
from services.diffusion.lora import ActiveAdapters
from services.diffusion.model_folder import ModelCard
from services.diffusion.packed_weights import PackedWeights
from services.diffusion.plan import Picture
from services.diffusion.png import encode_png
from services.diffusion.settings import DiffusionSettings
from services.diffusion.splitter import EverythingCancelled, PictureSplitter
from services.diffusion.text_cache import TextCache

_CLASSES = {
    "sd": diffusers.StableDiffusionPipeline,
    "sdxl": diffusers.StableDiffusionXLPipeline,
    "flux": diffusers.FluxPipeline,
    "pix2pix": EditPipeline,
}
_VERSIONS = {"diffusers": diffusers.__version__, "torch": torch.__version__, "transformers": transformers.__version__}

StepReporter = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


class LoadedModel:
    """A pipeline in memory; only one thread at a time may draw with it.

    Attributes:
        weights: under residency, what must be loaded before drawing; None where they are on the device for good.

    Raises:
        WeightsError: the folder cannot be loaded.
    """

    def __init__(self, card: ModelCard, adapters: AdapterCache, settings: DiffusionSettings) -> None:
        self.card = card
        self._tiling_px = settings.vae_tiling_px
        self._device = pick_device(settings.device)
        self._pipeline = _load(card, pick_dtype(settings.dtype, self._device))
        if not settings.residency_target:
            self._pipeline.to(self._device)
        denoiser = getattr(self._pipeline, card.denoiser)
        if settings.memory_format == "channels_last" and card.denoiser == "unet":
            for part in (denoiser, self._pipeline.vae):
                part.to(memory_format=torch.channels_last)
        self._adapters: ActiveAdapters | HotSwappedAdapters
        call = denoiser.forward
        if settings.compile:
            self._adapters = HotSwappedAdapters(
                self._pipeline, card.denoiser, adapters, settings.max_loaded_adapters, settings.adapter_slot_rank
            )
            call = compiled(call, settings.compile_backend)
        else:
            self._adapters = ActiveAdapters(self._pipeline, adapters, settings.max_loaded_adapters)
        self._scheduler_config = self._pipeline.scheduler.config
        self._texts = TextCache(int(settings.text_cache_bytes))
        self._splitter = PictureSplitter(settings.pictures_per_call)
        denoiser.forward = self._splitter.wrap(call)
        self._pipeline.vae.decode = self._splitter.wrap(self._pipeline.vae.decode)
        self.weights: PackedWeights | None = None
        if settings.residency_target:
            modules = [part for part in self._pipeline.components.values() if isinstance(part, torch.nn.Module)]
            self.weights = PackedWeights(modules, settings.residency_host)

    def draw(self, batch: Batch) -> None:
        """Draws pictures of equal settings.

        Raises:
            OutOfMemory: the device has no room.
            InvalidParameter: an adapter or the number of steps does not work with this model.
        """
        started_s = time.monotonic()
        pictures = batch.pictures
        settings = pictures[0].settings
        overwritten = self._adapters.activate(settings.adapters)
        if self.weights is not None:
            self.weights.refresh(overwritten)
        self._save_memory(settings.width * settings.height, len(pictures))
        report_step = _step_reporter(batch, settings.num_steps)
        try:
            images = trying_twice(lambda: self._images(batch, report_step), self._compact)
        except EverythingCancelled:
            return
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise self._out_of_memory(pictures[0], len(pictures)) from error
            raise
        duration_s = time.monotonic() - started_s
        for position, (picture, image) in enumerate(zip(pictures, images, strict=True)):
            if batch.wanted(position):
                batch.finished(position, Drawn(encode_png(image, self._parameters(picture)), duration_s))

    def _images(self, batch: Batch, report_step: StepReporter) -> list[PIL.Image.Image]:
        pictures = batch.pictures
        settings = pictures[0].settings
        self._set_scheduler(settings.scheduler, settings.num_steps)
        self._splitter.start(len(pictures), batch.wanted)
        with _unchanged(self._pipeline.vae), torch.inference_mode():
            images: list[PIL.Image.Image] = self._pipeline(
                **encode(self._pipeline, self.card.family, pictures, self._texts, self._adapters.text_state),
                **self._guidance(pictures[0]),
                num_inference_steps=settings.num_steps,
                # On the CPU whatever the device, and one a picture: the noise depends on nothing but the seed.
                generator=[torch.Generator("cpu").manual_seed(picture.seed) for picture in pictures],
                callback_on_step_end=report_step,
            ).images
        return images

    def _guidance(self, picture: Picture) -> dict[str, Any]:
        settings = picture.settings
        if self.card.family == "pix2pix":
            # Its size is that of the source picture.
            return {
                "guidance_scale": settings.guidance_scale,
                "image_guidance_scale": settings.image_guidance_scale,
            }
        size = {"width": settings.width, "height": settings.height}
        if self.card.family == "flux":
            if settings.has_negative_prompt and settings.guidance_scale > 1:
                # Guidance away from a negative prompt takes the place of the distilled one; both would add up.
                return {**size, "true_cfg_scale": settings.guidance_scale, "guidance_scale": 1.0}
            return {**size, "guidance_scale": settings.guidance_scale, "max_sequence_length": 512}
        return {**size, "guidance_scale": settings.guidance_scale}

    def _set_scheduler(self, name: str, num_steps: int) -> None:
        """A fresh scheduler for every batch: some carry state from the last one over."""
        scheduler = getattr(diffusers, f"{name}Scheduler").from_config(self._scheduler_config)
        most = scheduler.config.num_train_timesteps
        if num_steps > most:
            raise InvalidParameter(f"{num_steps} steps; {name} has at most {most}", field="num_inference_steps")
        self._pipeline.scheduler = scheduler

    def _save_memory(self, num_px: int, num_pictures: int) -> None:
        """Tiles and slices cost time and, at their seams, exactness: only where the autoencoder would need too much."""
        vae = self._pipeline.vae
        (vae.enable_tiling if num_px > self._tiling_px else vae.disable_tiling)()
        (vae.enable_slicing if num_px * num_pictures > self._tiling_px else vae.disable_slicing)()

    def _compact(self) -> None:
        """Gives back what is kept for later: memory in pieces may be enough in one."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _out_of_memory(self, picture: Picture, num_pictures: int) -> OutOfMemory:
        self._compact()
        settings = picture.settings
        return OutOfMemory(
            f"no memory on {self._device.type} for {num_pictures} pictures of {settings.width}x{settings.height}; "
            "ask for smaller pictures, or lower max_batch_size",
            retry_after_s=5.0,
        )

    def _parameters(self, picture: Picture) -> dict[str, Any]:
        settings = picture.settings
        parameters: dict[str, Any] = {
            "prompt": picture.prompt,
            "negative_prompt": picture.negative_prompt,
            "seed": picture.seed,
            "num_inference_steps": settings.num_steps,
            "guidance_scale": settings.guidance_scale,
            "width": settings.width,
            "height": settings.height,
            "scheduler": settings.scheduler,
            "model": settings.model,
            "adapters": [
                {"name": one.name, "weight": one.weight, "text_encoder_weight": one.text_encoder_weight}
                for one in settings.adapters
            ],
            "versions": _VERSIONS,
        }
        if self.card.family == "pix2pix":
            parameters["image_guidance_scale"] = settings.image_guidance_scale
        if self.card.digest:
            parameters["model_digest"] = self.card.digest
        dropped = dropped_text(self._pipeline, self.card.family, picture.prompt)
        if dropped:
            parameters["prompt_dropped"] = dropped
        return parameters


def pick_device(name: str) -> torch.device:
    """The device of a setting; "auto" takes CUDA where it works.

    Raises:
        WeightsError: CUDA was asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise WeightsError("device is set to cuda, but this machine has no CUDA device that torch can use")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format of a setting; "auto" takes bfloat16 only where the hardware multiplies it natively.

    On a CPU without such instructions a UNet step in bfloat16 took four to five times as long as in float32.
    """
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def _load(card: ModelCard, dtype: torch.dtype) -> Any:
    options: dict[str, Any] = {}
    if card.family in ("sd", "pix2pix"):
        options = {"safety_checker": None, "requires_safety_checker": False}
    if card.family == "sdxl":
        options = {"add_watermarker": False}
    try:
        pipeline = _CLASSES[card.family].from_pretrained(
            str(card.path), dtype=dtype, use_safetensors=True, local_files_only=True, **options
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise WeightsError(f"{card.path}: the pipeline cannot be loaded: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def quiet_libraries() -> None:
    """Keeps progress bars and advice of the libraries out of the logs."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


@contextlib.contextmanager
def _unchanged(module: torch.nn.Module) -> Iterator[None]:
    """Gives a module its own weights back, without needing memory for it.

    Diffusers converts an autoencoder in float16 for decoding, and back; an error in between would leave it converted.
    """
    own = [(parameter, parameter.data) for parameter in module.parameters()]
    try:
        yield
    finally:
        for parameter, data in own:
            parameter.data = data


def _step_reporter(batch: Batch, num_steps: int) -> StepReporter:
    reported = 0

    def step_done(pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal reported
        if not any(map(batch.wanted, range(len(batch.pictures)))):
            raise EverythingCancelled
        # PNDM and the second-order schedulers call the network more often than there are steps.
        done = (index + 1) * num_steps // pipeline.num_timesteps
        if done > reported:
            reported = done
            batch.step_done(done)
        return {}

    return step_done
