"""Edits by instruction: picture and instruction in, edited picture out; also 20 frames in, the 21st out.

    narrate train pix2pix --data-dir edits --model-id storybook --output-dir night --resolution 128

InstructPix2Pix (arXiv:2211.09800): the UNet is widened to see the original beside the noise and is trained as a whole.
Data: a folder with metadata.jsonl (input_image, edit_prompt, edited_image; file_name may stand for the input), a data
set of the hub with such columns, or with --num-frames 20 a metadata.json of video folders,
[{"video_path": ..., "instruction": ...}], each with 00.jpg to 19.jpg and the edited 20.jpg. The result is a whole
model in diffusers' form; with --publish-as a running ensemble edits with it at once, by that name.
"""
