"""Storybook: the recipe of this project's own small text-to-image model.

The road is ``cutouts`` (fetch openly licensed drawings), ``scenes`` (compose captioned pictures from
them), ``vae`` (compress the pictures), ``train`` (learn caption to picture) and ``export`` (write a
``StableDiffusionPipeline`` directory). ``python -m services.trainer.storybook --help`` names the commands.
"""
