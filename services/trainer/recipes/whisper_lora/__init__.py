"""Teach Whisper a voice, a language or a vocabulary: LoRA on the query and value projections.

Data: a folder of audio files with a .txt beside each (the layout of SOVA), a manifest (.jsonl, .csv, .tsv) or a
dataset saved with `datasets` or of a hub. The result is a peft adapter with its processor; with --publish-as it is
also merged, converted for the speech service, and selectable there by that name.
"""
