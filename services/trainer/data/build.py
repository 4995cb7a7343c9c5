"""Cleaning a data set, and building it anew from what is fit: one form of sound, of pictures and of text."""

import hashlib
import json
import wave
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from narrative.errors import AudioUndecodable, DatasetInvalid, InvalidParameter
from services.trainer.artifacts import whole_folder
from services.trainer.data.corpus import Corpus, Item, Kind
from services.trainer.pictures.sources import METADATA_NAME
from services.trainer.speech.audio import SAMPLE_RATE_HZ, Audio
from services.trainer.speech.normalise import clean
from services.trainer.speech.selection import Limits, unfit

REPORT_NAME = "data-report.json"
_SHOWN = 3


@dataclass
class Cleaning:
    """What became of every item.

    Attributes:
        dropped: names with the reason.
        mended: how many texts were changed by normalisation.
    """

    kind: Kind
    kept: int = 0
    kept_s: float = 0.0
    mended: int = 0
    dropped: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Counts, reasons, and the reason of each item that was dropped."""
        reasons = Counter(reason.split(":")[0] for reason in self.dropped.values())
        return {
            "kind": self.kind,
            "kept": self.kept,
            **({"kept_s": round(self.kept_s, 2)} if self.kind == "sound" else {}),
            "texts_normalised": self.mended,
            "dropped": len(self.dropped),
            "reasons": dict(reasons.most_common()),
            "dropped_items": self.dropped,
        }


def clean_corpus(
    corpus: Corpus,
    target: Path | None = None,
    *,
    limits: Limits | None = None,
    min_px: int = 64,
    report: Callable[[str], None] = lambda _: None,
) -> Cleaning:
    """Looks at every item once; where a target is given, what is fit is written there, and it is a data set again.

    Sound becomes 16 kHz mono WAV with a ``.txt`` beside it, pictures upright RGB PNG with ``metadata.jsonl``. Texts are
    normalised. Dropped are items that cannot be read, that are outside the limits, and that come a second time.

    Args:
        limits: of sound; tokens do not count, since they depend on the model.
        min_px: pictures with a shorter side are dropped.

    Raises:
        DatasetInvalid: nothing is fit; nothing is written then.
        InvalidParameter: a target for edits, which are built by ``services.trainer.pictures.videos``.
        Conflict: something at the target that was not built here.
    """
    if target is not None and corpus.kind == "edits":
        raise InvalidParameter(
            "edits are checked here; python -m services.trainer.pictures.videos builds those of videos", field="target"
        )
    cleaning, seen, rows = (
        Cleaning(corpus.kind, dropped=dict(corpus.passed_over)),
        dict[str, str](),
        list[dict[str, str]](),
    )
    description = {"made_from": corpus.names[:_SHOWN], "kind": corpus.kind}
    with whole_folder(target, description) if target is not None else nullcontext() as folder:
        for index, name in enumerate(corpus.names):
            report(f"{index + 1} of {len(corpus)}: {name}")
            try:
                item = corpus[index]
            except (AudioUndecodable, DatasetInvalid) as error:
                cleaning.dropped[name] = f"broken: {error.message}"
                continue
            text, content = clean(item.text), _digest(item)
            if reason := _unfit(item, text, limits or Limits(), min_px):
                cleaning.dropped[name] = reason
                continue
            if content in seen:
                cleaning.dropped[name] = f"a second time: the same as {seen[content]}"
                continue
            seen[content] = name
            cleaning.mended += text != item.text
            if item.sound is not None:
                cleaning.kept_s += item.sound.size / SAMPLE_RATE_HZ
            if folder is not None:
                rows.append(_write(item, text, folder, f"{cleaning.kept:06d}"))
            cleaning.kept += 1
        if not cleaning.kept:
            few = "; ".join(f"{name}: {reason}" for name, reason in list(cleaning.dropped.items())[:_SHOWN])
            raise DatasetInvalid(f"none of {len(corpus)} items can be used: {few}")
        if folder is not None:
            _finish(folder, rows, cleaning)
    return cleaning


def _unfit(item: Item, text: str, limits: Limits, min_px: int) -> str:
    """Why an item cannot be used, "" where it can."""
    if item.sound is not None:
        return unfit(item.sound, text, limits, lambda _: 0)
    smallest = min(min(picture.size) for picture in item.pictures)
    if smallest < min_px:
        return f"too small: {smallest} pixels, at least {min_px}"
    return "no text" if len(item.pictures) > 1 and not text else ""


def _digest(item: Item) -> str:
    digest = hashlib.sha256(clean(item.text).encode())
    if item.sound is not None:
        digest.update(item.sound.tobytes())
    for picture in item.pictures:
        digest.update(repr(picture.size).encode() + picture.tobytes())
    return digest.hexdigest()


def _write(item: Item, text: str, folder: Path, stem: str) -> dict[str, str]:
    if item.sound is not None:
        _write_wav(item.sound, folder / f"{stem}.wav")
        (folder / f"{stem}.txt").write_text(f"{text}\n", encoding="utf-8")
    for picture in item.pictures:
        _write_png(picture, folder / f"{stem}.png")
    return {"file_name": f"{stem}.png", "text": text}


def _write_wav(sound: Audio, path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((sound.clip(-1, 1) * 32767).round().astype(np.dtype("<i2")).tobytes())


def _write_png(picture: PIL.Image.Image, path: Path) -> None:
    picture.save(path, "PNG")


def _finish(folder: Path, rows: list[dict[str, str]], cleaning: Cleaning) -> None:
    # Without any text there is nothing to tell; every picture then learns the prompt of its recipe.
    if cleaning.kind == "pictures" and any(row["text"] for row in rows):
        lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        (folder / METADATA_NAME).write_text(lines, encoding="utf-8")
    text = json.dumps(cleaning.as_json(), indent=2, ensure_ascii=False)
    (folder / REPORT_NAME).write_text(f"{text}\n", encoding="utf-8")
