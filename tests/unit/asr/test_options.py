"""Every bad option is named, with what is accepted."""

import math

import pytest
from pydantic import ValidationError

from narrative.errors import InvalidParameter, ModelNotFound
from services.asr.engine import SpeakerBounds, TranscribeOptions
from services.asr.options import check_options, speaker_bounds
from services.asr.settings import AsrSettings

MODELS, LANGUAGES = ("base", "large"), ("en", "ru")


@pytest.mark.parametrize(
    ("bad", "field", "accepted"),
    [
        ({"language": "xx"}, "language", "en, ru"),
        ({"language": "EN"}, "language", "en, ru"),
        ({"language": "x" * 10_000}, "language", "en, ru"),
        ({"temperature": 1.01}, "temperature", "0 to 1"),
        ({"temperature": -0.1}, "temperature", "0 to 1"),
        ({"temperature": math.nan}, "temperature", "0 to 1"),
        ({"temperature": math.inf}, "temperature", "0 to 1"),
        ({"num_speakers": 65}, "num_speakers", "0 to 64"),
        ({"min_speakers": 4_000_000_000}, "min_speakers", "0 to 64"),
        ({"min_speakers": 3, "max_speakers": 2}, "min_speakers", "2"),
        ({"num_speakers": 5, "max_speakers": 4}, "num_speakers", "0 to 4"),
        ({"num_speakers": 1, "min_speakers": 2}, "num_speakers", "2 to 64"),
    ],
)
def test_a_bad_option_is_refused_by_name(bad, field, accepted):
    with pytest.raises(InvalidParameter) as caught:
        check_options(TranscribeOptions(**bad), MODELS, LANGUAGES)
    assert caught.value.field == field
    assert accepted in caught.value.message
    assert len(caught.value.message) < 300


def test_an_unknown_model_is_refused_with_the_names_there_are():
    with pytest.raises(ModelNotFound, match="base, large") as caught:
        check_options(TranscribeOptions(model="tiny"), MODELS, LANGUAGES)
    assert caught.value.field == "model"


@pytest.mark.parametrize(
    "good",
    [
        {},
        {"language": "ru", "model": "large", "temperature": 1.0},
        {"num_speakers": 2, "min_speakers": 2, "max_speakers": 2},
    ],
)
def test_good_options_pass(good):
    check_options(TranscribeOptions(**good), MODELS, LANGUAGES)


@pytest.mark.parametrize(
    ("options", "bounds"),
    [
        ({}, SpeakerBounds(1, 8)),
        ({"num_speakers": 3}, SpeakerBounds(3, 3)),
        ({"min_speakers": 2}, SpeakerBounds(2, 8)),
        ({"min_speakers": 12}, SpeakerBounds(12, 12)),
        ({"max_speakers": 4}, SpeakerBounds(1, 4)),
        ({"num_speakers": 3, "skip_diarization": True}, SpeakerBounds(1, 1)),
    ],
)
def test_zero_means_the_default_of_the_server(options, bounds):
    assert speaker_bounds(TranscribeOptions(**options), 8) == bounds


@pytest.mark.parametrize(
    "bad", [{"min_context_s": 5}, {"models": []}, {"scratch_dir": "no/such/folder"}, {"engine": "x"}]
)
def test_bad_settings_fail_early(bad):
    with pytest.raises(ValidationError):
        AsrSettings(**bad)
