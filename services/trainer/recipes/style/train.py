"""The style recipe: resize, mirror at random, and learn one word."""

from services.trainer.artifacts import Result
from services.trainer.loop import make_accelerator
from services.trainer.pictures.base import load_base
from services.trainer.pictures.examples import PictureExamples, PromptedPictures
from services.trainer.pictures.sources import FolderSource, check_pictures
from services.trainer.pictures.train import quiet_libraries, result_folder, train_adapter
from services.trainer.progress import Progress
from services.trainer.recipes.style.config import Config


def run(config: Config, progress: Progress) -> Result:
    """Trains the adapter.

    Raises:
        NarrativeError: bad data, an unknown base, no memory, a full disk; nothing is written then.
    """
    quiet_libraries()
    result_folder(config)
    palette, dropped = check_pictures(
        FolderSource(config.dataset_dir, caption_column=""), config.min_image_px, skip=config.skip_bad_images
    )
    for problem in dropped:
        progress.note(f"left out: {problem}")
    accelerator = make_accelerator(config)
    base = load_base(config.model_id, ["sd"], config.mixed_precision, denoiser_later=not config.draws)
    prompts = [config.prompt] * len(palette)
    pictures = PromptedPictures(palette, prompts, config.resolution, "stretch", config.random_flip)
    return train_adapter(
        config,
        base,
        PictureExamples(pictures),
        accelerator=accelerator,
        progress=progress,
        description={"recipe": "style", "trigger_word": config.prompt},
    )
