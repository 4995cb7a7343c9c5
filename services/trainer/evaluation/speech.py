"""Scores of speech recognition: of texts that are there, or of a model on a data set."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from narrative.catalogue import Catalogue
from narrative.errors import AudioUndecodable, InvalidInput, InvalidParameter, NotFound, WeightsError
from narrative.settings import CommonSettings
from services.trainer.evaluation.report import Report
from services.trainer.evaluation.words import error_rates
from services.trainer.publishing import published_speech_model
from services.trainer.speech.audio import decode
from services.trainer.speech.normalise import plain
from services.trainer.speech.sources import Columns, open_clips

SCORES = ("wer", "cer")
_MAX_S = 3600.0


def compare_files(references: Path, hypotheses: Path) -> Report:
    """Scores of two text files, one text a line, in the same order.

    Raises:
        InvalidInput: a file cannot be read, or they do not fit together.
    """
    spoken, heard = _lines(references), _lines(hypotheses)
    if len(spoken) != len(heard):
        raise InvalidInput(f"{references} has {len(spoken)} lines and {hypotheses} {len(heard)}; each needs the other")
    rates = error_rates(spoken, heard)
    return Report({"wer": rates.wer, "cer": rates.cer}, {"texts": len(spoken)})


def score_model(
    dataset: str, columns: Columns, model: str, *, language: str, limit: int | None, report: Callable[[str], None]
) -> Report:
    """Scores of a transcription model in CTranslate2 form on audio with text, by faster-whisper with two beams.

    Clips that cannot be decoded, or have no text, are left out and named in the report.

    Args:
        model: catalogue id, path, or name of a published model.
        language: ISO 639-1 code, "" to detect it for every clip.
        limit: most clips, the first ones; None for all.

    Raises:
        DatasetInvalid, ModelNotFound, WeightsError: data or model cannot be read.
        InvalidInput: no clip could be used.
    """
    clips = open_clips(dataset, columns)
    recogniser = _open(model)
    spoken: list[str] = []
    heard: list[str] = []
    left_out: dict[str, str] = {}
    for clip in clips[:limit] if limit else clips:
        try:
            audio = decode(clip.audio, clip.name, max_s=_MAX_S)
        except AudioUndecodable as error:
            left_out[clip.name] = error.message
            continue
        if not plain(clip.text):
            left_out[clip.name] = "no text"
            continue
        segments, _ = recogniser.transcribe(
            audio, language=language or None, temperature=0.0, beam_size=2, condition_on_previous_text=False
        )
        spoken.append(clip.text)
        heard.append(" ".join(segment.text.strip() for segment in segments))
        report(f"{len(spoken)} clips heard")
    if not spoken:
        name, reason = next(iter(left_out.items()))
        raise InvalidInput(f"no clip of {dataset} can be used; {name}: {reason}")
    rates = error_rates(spoken, heard)
    return Report({"wer": rates.wer, "cer": rates.cer}, {"model": model, "clips": len(spoken), "left_out": left_out})


def _open(model: str) -> Any:
    """The model of that name; a published one where the catalogue has none."""
    from faster_whisper import WhisperModel

    folder = _folder_of(model)
    try:
        return WhisperModel(str(folder), device="auto", compute_type="default", local_files_only=True)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"{folder} cannot be loaded as a Whisper model in CTranslate2 form: {error}") from error


def _folder_of(model: str) -> Path:
    is_known = model in {entry.id for entry in Catalogue()} or model.startswith(("/", ".", "~"))
    if not is_known:
        with contextlib.suppress(NotFound, InvalidParameter):
            return published_speech_model(model)
    return Catalogue().resolve(model, CommonSettings().models_dir)


def _lines(path: Path) -> Sequence[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as UTF-8 text: {error}") from error
