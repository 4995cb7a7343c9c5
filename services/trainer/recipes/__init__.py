"""One folder a recipe: ``config.py`` holds ``Config``, ``train.py`` holds ``run(config, progress)``."""
