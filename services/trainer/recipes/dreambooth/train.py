"""The DreamBooth recipe (arXiv:2208.12242) with LoRA in place of whole weights."""

from narrative.errors import DatasetInvalid, InvalidParameter
from services.trainer.artifacts import Result, run_folder
from services.trainer.loop import make_accelerator
from services.trainer.pictures.base import BaseModel, Family, load_base
from services.trainer.pictures.class_images import draw_missing
from services.trainer.pictures.examples import PictureExamples, PromptedPictures
from services.trainer.pictures.sources import FolderSource, HubSource, PictureSource, Subset, check_pictures
from services.trainer.pictures.train import quiet_libraries, result_folder, train_adapter
from services.trainer.progress import Progress
from services.trainer.recipes.dreambooth.config import Config


def run(config: Config, progress: Progress) -> Result:
    """Trains the adapter.

    Raises:
        NarrativeError: bad data, an unknown base, no memory, a full disk; nothing is written then.
    """
    quiet_libraries()
    result_folder(config)
    instances = _instances(config, progress)
    if config.optimizer == "prodigy" and config.learning_rate <= 0.1:
        progress.note(f"learning_rate {config.learning_rate:g} is low for prodigy, which expects about 1")
    accelerator = make_accelerator(config)
    families: tuple[Family, ...] = ("sd", "sdxl", "flux")
    draws = config.draws or config.with_prior_preservation
    base = load_base(config.model_id, families, config.mixed_precision, denoiser_later=not draws)
    if base.family == "flux" and config.resolution % 16:
        raise InvalidParameter(f"resolution {config.resolution}: FLUX needs a multiple of 16", field="resolution")
    classes = None
    if config.with_prior_preservation:
        base.pipeline.to(accelerator.device)
        with accelerator.main_process_first():
            classes = _classes(config, base, progress)
    return train_adapter(
        config,
        base,
        PictureExamples(instances, classes),
        accelerator=accelerator,
        progress=progress,
        description={"recipe": "dreambooth", "trigger_word": config.instance_prompt, "class": config.class_prompt},
        train_text_encoder=config.train_text_encoder,
        text_rate=config.text_encoder_lr,
    )


def _instances(config: Config, progress: Progress) -> PromptedPictures:
    source: PictureSource
    if config.instance_data_dir:
        column = "text" if config.caption_column is None else config.caption_column
        source = FolderSource(config.instance_data_dir, column, field="instance_data_dir")
    else:
        source = HubSource(
            config.dataset_name,
            config.dataset_config_name,
            config.dataset_split,
            config.image_column,
            config.caption_column or "",
        )
    source, dropped = check_pictures(source, config.min_image_px, skip=config.skip_bad_images)
    for problem in dropped:
        progress.note(f"left out: {problem}")
    captions = [source.caption(index) for index in range(len(source))]
    prompts = [caption or config.instance_prompt for caption in captions]
    if not all(prompts):
        nameless = source.name(prompts.index(""))
        raise DatasetInvalid(f"{nameless} has no caption; give instance_prompt", field="instance_prompt")
    progress.note(f"{len(source)} pictures, {sum(map(bool, captions))} of them with a caption of their own")
    return PromptedPictures(source, prompts, config.resolution, config.crop, config.random_flip)


def _classes(config: Config, base: BaseModel, progress: Progress) -> PromptedPictures:
    folder = config.class_data_root or run_folder(result_folder(config), config) / "class"
    draw_missing(
        base,
        config.class_prompt,
        folder,
        config.num_class_images,
        side_px=config.resolution,
        batch_size=config.sample_batch_size,
        seed=config.seed,
        progress=progress,
    )
    source, _ = check_pictures(FolderSource(folder, "", field="class_data_root"), config.min_image_px, skip=False)
    source = Subset(source, range(min(len(source), config.num_class_images)))
    prompts = [config.class_prompt] * len(source)
    return PromptedPictures(
        source, prompts, config.resolution, config.crop, config.random_flip, weight=config.prior_loss_weight
    )
