"""Worker processes that compose scenes beside a training: pictures and several tokenised captions of each.

``python -m services.trainer.storybook.composing`` is one worker. It imports no torch, so that sixteen of them start
at once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from services.trainer.storybook import cutouts, dataset, parts
from services.trainer.storybook.plan import Planner
from services.trainer.storybook.scenes import Composer

WORDINGS = 8
MAX_TOKENS = 77


class FastTokenizer:
    """What ``CLIPTokenizer`` of the same folder makes of a text, without transformers."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        pad, end = (
            token["content"] if isinstance(token, dict) else token
            for token in (settings["pad_token"], settings["eos_token"])
        )
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        self._pad, self._end = vocabulary[pad], vocabulary[end]

    def ids(self, texts: list[str]) -> npt.NDArray[np.int16]:
        """Return int16 (n, 77) ids, padded and cut."""
        rows = np.full((len(texts), MAX_TOKENS), self._pad, np.int16)
        for row, encoded in zip(rows, self._tokenizer.encode_batch(texts), strict=True):
            ids = encoded.ids
            ids = [*ids[: MAX_TOKENS - 1], self._end] if len(ids) > MAX_TOKENS else ids
            row[: len(ids)] = ids
        return rows


def tokens_path(pictures: Path) -> Path:
    """Return where the captions of a shard lie: int16 (scenes, ``WORDINGS``, 77)."""
    return pictures.parent.parent / "tokens" / pictures.name


def write_tokens(work_dir: Path, pictures: Path) -> None:
    """Word and tokenise the captions of a shard."""
    book = dataset.CaptionBook(Planner(dataset.known(work_dir)))
    tokenizer = FastTokenizer(work_dir / "tokenizer")
    texts = [book.caption(seed, wording) for seed in dataset.seeds_of(pictures) for wording in range(WORDINGS)]
    path = tokens_path(pictures)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, tokenizer.ids(texts).reshape(-1, WORDINGS, MAX_TOKENS))
    temporary.rename(path)


def start(
    work_dir: Path,
    size_px: int,
    workers: int,
    scenes: int,
    *,
    first_shard: int = 0,
    parts_dir: Path | None = None,
    centres: bool = False,
) -> list[subprocess.Popen[bytes]]:
    """Start workers that share ``scenes`` scenes from ``first_shard`` on; what is already there is kept.

    Captions are written where ``work_dir`` holds a tokenizer.

    Args:
        parts_dir: the folder that holds or gets the cut-outs, if another one.
        centres: also keep where the subjects are.
    """
    command = [sys.executable, "-m", __name__, str(work_dir), str(parts_dir or work_dir)]
    command += ["--centres"] if centres else []
    numbers = [str(number) for number in (size_px, workers, scenes, first_shard)]
    if workers:
        parts.icon_files(parts_dir or work_dir)  # fetched once, before many would
    return [subprocess.Popen([*command, *numbers, str(number)]) for number in range(workers)]


def main() -> None:
    """Be one worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("parts_dir", type=Path)
    for name in ("size_px", "workers", "scenes", "first_shard", "number"):
        parser.add_argument(name, type=int)
    parser.add_argument("--centres", action="store_true")
    args = parser.parse_args()
    library = cutouts.CutoutLibrary(parts.icon_files(args.parts_dir))
    composer = Composer(library, dataset.known(args.work_dir), args.size_px)
    captioned = (args.work_dir / "tokenizer").exists()
    for shard in range(args.number, -(-args.scenes // dataset.SHARD_SCENES), args.workers):
        pictures = dataset.shard_path(args.work_dir, args.size_px, args.first_shard + shard)
        if captioned and tokens_path(pictures).exists():
            continue  # its pictures may have become latents already
        dataset.compose_shard(composer, pictures, centres=dataset.centres_path(pictures) if args.centres else None)
        if captioned:
            # Last: a shard counts as there when its captions are.
            write_tokens(args.work_dir, pictures)


if __name__ == "__main__":
    main()
