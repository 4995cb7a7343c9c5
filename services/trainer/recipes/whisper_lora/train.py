"""Runs the recipe: data, what the base makes of it, training, what the adapted model makes of it, publishing."""

import hashlib
import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.utils.logging import disable_progress_bar

from narrative.catalogue import Catalogue
from narrative.hashing import sha256_of
from narrative.registry import SPEECH_MODELS
from services.trainer.artifacts import Result, drop_checkpoints, refuse_foreign_folder, run_folder, whole_folder
from services.trainer.base_models import find_here
from services.trainer.evaluation import gate
from services.trainer.evaluation.words import ErrorRates, error_rates
from services.trainer.loop import fit, make_accelerator
from services.trainer.progress import Progress
from services.trainer.publishing import publish
from services.trainer.recipes.whisper_lora.config import Config
from services.trainer.recipes.whisper_lora.learner import WhisperLearner
from services.trainer.speech.examples import SpeechExamples, label_frame, room_for_text, text_tokens
from services.trainer.speech.publish import CARD, write_model
from services.trainer.speech.recognise import transcribe
from services.trainer.speech.selection import Limits, Report, select, split
from services.trainer.speech.sources import Clip, Columns, open_clips
from services.trainer.speech.transformers_form import load_whisper

_SHOWN = 5


class WhisperResult(Result):
    """What is printed: error rates on the validation clips, of the base and of the adapted model."""

    wer_before: float
    wer_after: float
    cer_before: float
    cer_after: float
    clips_dropped: int
    published: str | None = None
    unmet_requirements: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Data:
    train: SpeechExamples
    validation: SpeechExamples
    report: Report
    digest: str


@dataclass(frozen=True)
class _Heard:
    texts: list[str]
    rates: ErrorRates


def run(config: Config, progress: Progress) -> WhisperResult:
    """Trains one adapter.

    Raises:
        DatasetInvalid: the data cannot be read, or nothing of it can be used.
        WeightsError, ModelNotFound: the base is not here or no Whisper model.
        Conflict: something that was not made here is where the result belongs.
        Also what ``fit`` raises.
    """
    requirements = gate.parse(config.require, ("wer", "cer"))
    refuse_foreign_folder(config.output_dir)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    accelerator = make_accelerator(config)
    base = find_here(config.base_model, "base_model")
    model, processor = load_whisper(base)
    data = _read(config, model, processor)
    validation = data.validation
    progress.note(
        f"{len(data.train)} clips to learn from, {len(validation)} for validation, {len(data.report.dropped)} dropped",
        train=len(data.train),
        validation=len(validation),
        dropped=data.report.as_json()["reasons"],
    )
    learner = WhisperLearner(model, config, validation)
    learner.to(accelerator.device)
    learner.sample_with(processor, config.language)

    def listen() -> _Heard:
        positions = range(min(config.validation_clips, len(validation)))
        texts = transcribe(
            learner.adapted,
            processor,
            validation,
            positions,
            language=config.language,
            batch_size=config.train_batch_size,
        )
        return _Heard(texts, error_rates([validation.text(position) for position in positions], texts))

    before = listen()
    progress.note(f"before: WER {before.rates.wer:.3f}, CER {before.rates.cer:.3f}", **asdict(before.rates))
    run_dir = run_folder(config.output_dir, config)
    outcome = fit(
        learner,
        data.train,
        config,
        accelerator=accelerator,
        run_dir=run_dir,
        progress=progress,
        identity={"data": data.digest, "base": _base_digest(base)},
    )
    after = listen()
    progress.note(f"after: WER {after.rates.wer:.3f}, CER {after.rates.cer:.3f}", **asdict(after.rates))
    unmet = tuple(gate.unmet(requirements, asdict(after.rates)))
    result = WhisperResult(
        success=True,
        output_dir=config.output_dir,
        epochs_completed=outcome.epochs,
        final_loss=outcome.final_loss,
        wer_before=before.rates.wer,
        wer_after=after.rates.wer,
        cer_before=before.rates.cer,
        cer_after=after.rates.cer,
        clips_dropped=len(data.report.dropped),
        published=config.publish_as if config.publish_as and not unmet else None,
        unmet_requirements=unmet,
    )
    if not accelerator.is_main_process:
        return result
    about = _about(config, data, before, after)
    with whole_folder(config.output_dir, {**about, "settings": config.model_dump(mode="json")}) as folder:
        learner.save(folder)
        processor.save_pretrained(folder)
        _write_json(folder / "data-report.json", data.report.as_json())
        _write_json(folder / "evaluation.json", _evaluation(validation, before, after))
    if result.published:
        _publish(config, learner, processor, run_dir, about)
        progress.note(f"published as {config.publish_as}")
    elif unmet:
        progress.note(f"not published: {'; '.join(unmet)}", unmet=list(unmet))
    drop_checkpoints(run_dir, config)
    return result


def _read(config: Config, model: WhisperForConditionalGeneration, processor: WhisperProcessor) -> _Data:
    """Checks every clip and deals them to the two sides."""
    label_frame(processor, config.language)
    columns = Columns(config.audio_column, config.text_column)
    clips = open_clips(config.dataset, columns, hub_split=config.dataset_split)
    limits = Limits(
        config.min_duration_s, config.max_duration_s, config.max_characters_per_s, room_for_text(model.config)
    )
    report = select(clips, limits, lambda text: len(text_tokens(processor, text)))
    train, held_out = split(clips, report.kept, validation_share=config.validation_share, seed=config.seed)
    return _Data(
        SpeechExamples(clips, train, processor, config.language),
        SpeechExamples(clips, held_out, processor, config.language),
        report,
        _data_digest(clips[index] for index in train),
    )


def _data_digest(clips: Iterable[Clip]) -> str:
    """Changes when a clip or its text does."""
    digest = hashlib.sha256()
    for clip in clips:
        audio = hashlib.sha256(clip.audio).hexdigest() if isinstance(clip.audio, bytes) else sha256_of(clip.audio)
        digest.update(f"{clip.name}\t{audio}\t{clip.text}\n".encode())
    return digest.hexdigest()


def _publish(
    config: Config, learner: WhisperLearner, processor: WhisperProcessor, run_dir: Path, about: dict[str, Any]
) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=run_dir, prefix="published-") as folder:
        model = write_model(
            learner.adapted.to("cpu"), processor, Path(folder), weights_type=config.publish_type, about=about
        )
        card = json.loads((model / CARD).read_text(encoding="utf-8"))
        publish(SPEECH_MODELS, config.publish_as, {path.name: path for path in model.iterdir()}, card)


def _about(config: Config, data: _Data, before: _Heard, after: _Heard) -> dict[str, Any]:
    """What the result and the published model say of themselves."""
    return {
        "recipe": "whisper_lora",
        "base": config.base_model,
        "licence": {entry.id: entry.licence for entry in Catalogue()}.get(config.base_model, ""),
        "language": config.language,
        "data_digest": data.digest,
        "clips": len(data.train),
        "scores": {**asdict(after.rates), "clips": len(after.texts)},
        "base_scores": asdict(before.rates),
    }


def _base_digest(base: Path) -> str:
    weights = [path for path in sorted(base.iterdir()) if path.suffix in (".bin", ".safetensors")]
    return "".join(sha256_of(path)[:16] for path in weights)


def _evaluation(validation: SpeechExamples, before: _Heard, after: _Heard) -> dict[str, Any]:
    """Scores, and the first few clips as they were heard before and after."""
    shown = [
        {"clip": validation.name(position), "text": validation.text(position), "before": was, "after": now}
        for position, (was, now) in enumerate(zip(before.texts[:_SHOWN], after.texts[:_SHOWN], strict=True))
    ]
    return {
        "clips": len(before.texts),
        "before": asdict(before.rates),
        "after": asdict(after.rates),
        "examples": shown,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
