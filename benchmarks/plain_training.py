"""The loops that one would write first, one for each recipe: nothing is kept, every part stays in memory.

Each gives the processor seconds of every step, on the same data, adapter, batch and accumulation as its recipe.
"""

import time

import numpy as np
import PIL.Image
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from peft import LoraConfig

from narrative.catalogue import Catalogue
from narrative.settings import CommonSettings

PROMPT = "a pim fox"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]
# Settings that differ from recipe to recipe: accumulation, alpha, dropout, mirroring, the text encoder's adapter.
ADAPTERS = {
    "style": {"accumulation": 4, "alpha": 32, "dropout": 0.05, "flip": True, "text": False},
    "dreambooth": {"accumulation": 1, "alpha": 16, "dropout": 0.0, "flip": False, "text": False},
    "dreambooth, text encoder": {"accumulation": 1, "alpha": 16, "dropout": 0.0, "flip": False, "text": True},
}


def adapter(name, options, folder):
    """style and dreambooth: a LoRA adapter on prompted pictures."""
    chosen = ADAPTERS[name]
    pipeline, schedule = _base(options.model)
    unet, vae, text_encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
    lora = {"r": 16, "lora_alpha": chosen["alpha"], "lora_dropout": chosen["dropout"]}
    unet.add_adapter(LoraConfig(**lora, target_modules=TARGETS))
    if chosen["text"]:
        text_encoder.add_adapter(LoraConfig(**lora, target_modules=TEXT_TARGETS))
    trained = [p for part in (unet, text_encoder) for p in part.parameters() if p.requires_grad]
    files = sorted(folder.iterdir())

    def loss(positions):
        pixels = torch.stack([_pixels(files[index], options.resolution, stretch=chosen["flip"]) for index in positions])
        if chosen["flip"] and torch.rand(()) < 0.5:
            pixels = pixels.flip(-1)
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
        states = _states(pipeline, [PROMPT] * len(positions))
        return _denoising_loss(unet, schedule, latents, states)

    return _steps(loss, trained, len(files), options, chosen["accumulation"])


def pix2pix(name, options, folder):
    """The whole UNet, widened to twice the channels, on pairs of pictures."""
    pipeline, schedule = _base(options.model)
    unet, vae = pipeline.unet, pipeline.vae
    narrow = unet.conv_in
    channels = narrow.in_channels
    unet.conv_in = torch.nn.Conv2d(2 * channels, narrow.out_channels, narrow.kernel_size, narrow.stride, narrow.padding)
    with torch.no_grad():
        unet.conv_in.weight.zero_()[:, :channels] = narrow.weight
        unet.conv_in.bias.copy_(narrow.bias)
    unet.requires_grad_(True)
    files = sorted(folder.glob("*.jpg"))

    def loss(positions):
        pictures = [_pixels(files[index], options.resolution, stretch=True) for index in positions]
        pixels = torch.stack(pictures)
        with torch.no_grad():
            latents = vae.encode(pixels.flip(-1)).latent_dist.sample() * vae.config.scaling_factor
            original = vae.encode(pixels).latent_dist.mode()
        without_text, without_original = torch.rand(len(positions)) < 0.1, torch.rand(len(positions)) < 0.1
        states = _states(pipeline, ["" if empty else "mirror it" for empty in without_text])
        original = original * (~without_original)[:, None, None, None]
        return _denoising_loss(unet, schedule, latents, states, original)

    return _steps(loss, list(unet.parameters()), len(files), options, 1)


def whisper_lora(name, options, folder):
    """LoRA on the queries and values of Whisper, on clips with text."""
    from peft import get_peft_model

    from services.trainer.speech.audio import decode
    from services.trainer.speech.transformers_form import load_whisper

    model, processor = load_whisper(Catalogue().resolve("whisper-base", CommonSettings().models_dir))
    model.train()
    adapted = get_peft_model(
        model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=["q_proj", "v_proj"])
    )
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    files = sorted(folder.glob("*.wav"))

    def loss(positions):
        audio = [decode(files[index], files[index].name, max_s=30.0) for index in positions]
        features = processor.feature_extractor(audio, sampling_rate=16_000, return_tensors="pt").input_features
        texts = [files[index].with_suffix(".txt").read_text() for index in positions]
        tokens = [torch.tensor(ids) for ids in processor.tokenizer(texts).input_ids]
        ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=-100)
        return adapted(input_features=features, labels=ids).loss

    return _steps(loss, trained, len(files), options, 1)


def _base(model):
    path = Catalogue().resolve(model, CommonSettings().models_dir)
    pipeline = StableDiffusionPipeline.from_pretrained(path, dtype=torch.float32, safety_checker=None)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False)
    return pipeline, DDPMScheduler.from_config(pipeline.scheduler.config)


def _pixels(file, side, *, stretch):
    picture = PIL.Image.open(file).convert("RGB")
    if not stretch:
        short = min(picture.size)
        left, top = (picture.width - short) // 2, (picture.height - short) // 2
        picture = picture.crop((left, top, left + short, top + short))
    pixels = torch.from_numpy(np.asarray(picture.resize((side, side)), np.float32))
    return pixels.permute(2, 0, 1) / 127.5 - 1


def _states(pipeline, prompts):
    ids = pipeline.tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    return pipeline.text_encoder(ids)[0]


def _denoising_loss(unet, schedule, latents, states, beside=None):
    noise = torch.randn_like(latents)
    timesteps = torch.randint(0, schedule.config.num_train_timesteps, (len(latents),))
    noisy = schedule.add_noise(latents, noise, timesteps)
    target = schedule.get_velocity(latents, noise, timesteps)
    if schedule.config.prediction_type == "epsilon":
        target = noise
    if beside is not None:
        noisy = torch.cat([noisy, beside], dim=1)
    return torch.nn.functional.mse_loss(unet(noisy, timesteps, states).sample, target)


def _steps(loss, trained, num, options, accumulation):
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    durations, position = [], 0
    for _ in range(options.steps):
        started = time.process_time()
        # An epoch's last step is smaller where the examples do not divide.
        left = num - position % num
        passes = min(accumulation, -(-left // options.batch))
        for _ in range(passes):
            positions = [(position + offset) % num for offset in range(min(options.batch, num - position % num))]
            position += len(positions)
            (loss(positions) / passes).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        durations.append(time.process_time() - started)
    return durations
