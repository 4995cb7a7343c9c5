"""A character or thing from a few pictures: a DreamBooth LoRA adapter for Stable Diffusion 1.x, SDXL or FLUX.

    narrate train dreambooth --instance-data-dir pim --instance-prompt "pim the fox" --name pim --resolution 128

Pictures come from a folder (captions in metadata.jsonl or in a .txt beside each) or a data set of the hub; those
without a caption learn the instance prompt, which should hold a rare word. --with-prior-preservation keeps what the
model knew of the class: its own pictures of --class-prompt are learned beside, and drawn first where they are missing.
"""
