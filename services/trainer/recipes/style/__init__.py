"""A style from a palette of pictures: a LoRA adapter for Stable Diffusion 1.x under one word.

    narrate train style --dataset-dir palette --model-id storybook --resolution 128 --num-train-epochs 100

The folder holds the pictures; captions in it do not count. All learn the one prompt, the word of the style. The adapter
is published as artist_seal, and an earlier one of that name is replaced.
"""
