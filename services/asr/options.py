"""What a request may ask for, checked before a byte of audio is sent."""

from collections.abc import Collection

from narrative.errors import InvalidParameter, ModelNotFound
from services.asr.engine import SpeakerBounds, TranscribeOptions

MAX_SPEAKERS = 64


def check_options(options: TranscribeOptions, models: Collection[str], languages: Collection[str]) -> None:
    """Raises what is wrong with the options, if anything.

    Args:
        models: names of the transcription models.
        languages: codes that the model asked for understands.

    Raises:
        InvalidParameter: names the field, and what is accepted.
        ModelNotFound: names the models there are.
    """
    check_model(options.model, models)
    if options.language and options.language not in languages:
        raise InvalidParameter(
            f"{options.language[:40]!r} is no language this model understands; "
            f"accepted are {', '.join(sorted(languages))}, or none to detect it",
            field="language",
        )
    if not 0.0 <= options.temperature <= 1.0:  # Also true of NaN.
        raise InvalidParameter(f"temperature is {options.temperature:g}; accepted are 0 to 1", field="temperature")
    for field in ("num_speakers", "min_speakers", "max_speakers"):
        if not 0 <= (value := getattr(options, field)) <= MAX_SPEAKERS:
            raise InvalidParameter(f"{field} is {value}; accepted are 0 to {MAX_SPEAKERS}", field=field)
    if options.max_speakers and options.min_speakers > options.max_speakers:
        raise InvalidParameter(
            f"min_speakers is {options.min_speakers}, more than max_speakers, {options.max_speakers}",
            field="min_speakers",
        )
    if options.num_speakers and (options.min_speakers or options.max_speakers):
        least, most = options.min_speakers, options.max_speakers or MAX_SPEAKERS
        if not least <= options.num_speakers <= most:
            raise InvalidParameter(
                f"num_speakers is {options.num_speakers}, outside min_speakers to max_speakers, {least} to {most}",
                field="num_speakers",
            )


def check_model(model: str, models: Collection[str]) -> None:
    """Raises ModelNotFound unless ``model`` is one of ``models`` or ""."""
    if model and model not in models:
        raise ModelNotFound(f"no transcription model {model[:80]!r} here; there are {', '.join(models)}", field="model")


def speaker_bounds(options: TranscribeOptions, default_most: int) -> SpeakerBounds:
    """The bounds a request implies; 0 stands for the server's default."""
    if options.skip_diarization:
        return SpeakerBounds(1, 1)
    if options.num_speakers:
        return SpeakerBounds(options.num_speakers, options.num_speakers)
    least = options.min_speakers or 1
    return SpeakerBounds(least, options.max_speakers or max(least, default_most))
