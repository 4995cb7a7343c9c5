"""InstructPix2Pix that is shown a picture, or the frames of a video."""

import diffusers
import torch


class EditPipeline(diffusers.StableDiffusionInstructPix2PixPipeline):
    """The pipeline of diffusers, for latents of as many frames as the UNet was widened for."""

    def prepare_image_latents(  # type: ignore[no-untyped-def]
        self, image, batch_size, num_images_per_prompt, dtype, device, do_classifier_free_guidance, generator=None
    ) -> torch.Tensor:
        """The latents as they came, one row a picture and (frames x channels) deep, for each branch of guidance.

        The original takes four channels for latents and everything else for pixels.
        """
        del batch_size, num_images_per_prompt, generator
        latents: torch.Tensor = image.to(device=device, dtype=dtype)
        if not do_classifier_free_guidance:
            return latents
        return torch.cat([latents, latents, torch.zeros_like(latents)])
