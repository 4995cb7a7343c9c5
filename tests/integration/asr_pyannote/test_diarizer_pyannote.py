"""The production diarizer on a real pyannote.audio, from a local folder; `make test-pyannote` runs this."""

import json
import os
import threading
from itertools import pairwise

import numpy as np
import pytest

from narrative.errors import Cancelled, WeightsError
from services.asr.__main__ import build_engine
from services.asr.decode import DecodeLimits, decode
from services.asr.engine import Segment, Span, SpeakerBounds, Summary, TranscribeOptions
from services.asr.recording import Recording
from services.asr.settings import AsrSettings

pytest.importorskip("pyannote.pipeline", reason="needs the environment of `make test-pyannote`")

pytestmark = [
    pytest.mark.pyannote,
    pytest.mark.filterwarnings("ignore"),  # Those of pyannote and its libraries are theirs to mend.
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def settings(pipeline_dir, models_dir, tmp_path_factory):
    made = AsrSettings(
        cpu_threads=1,
        diarizer="pyannote",
        pyannote_pipeline=str(pipeline_dir),
        scratch_dir=tmp_path_factory.mktemp("scratch"),
    )
    made.common.models_dir = models_dir
    return made


@pytest.fixture(scope="module")
def diarizer(settings):
    from services.asr.diarizer_pyannote import PyannoteDiarizer

    made = PyannoteDiarizer(settings)
    made.load("cpu")
    yield made
    made.offload()


@pytest.fixture
def recording(speech, tmp_path):
    with Recording(tmp_path) as made:
        limits = DecodeLimits(600, 4_000, 192_000, 8)
        list(decode(speech / "mixed3.flac", "mixed3", made, limits, threading.Event()))
        yield made


def run(diarizer, recording, bounds, cancelled=None):
    work = diarizer.diarize(recording, [Span(0, recording.samples)], bounds, cancelled or threading.Event())
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value


def test_who_spoke_when(diarizer, recording, speech):
    turns = run(diarizer, recording, SpeakerBounds(1, 8))
    assert all(before.end_s <= after.start_s for before, after in pairwise(turns))

    from pyannote.core import Annotation, Timeline
    from pyannote.core import Segment as Stretch
    from pyannote.metrics.diarization import DiarizationErrorRate

    reference, found = Annotation(), Annotation()
    for turn in json.loads((speech / "mixed3.json").read_text(encoding="utf-8")):
        reference[Stretch(turn["start_s"], turn["end_s"])] = turn["speaker"]
    for turn in turns:
        found[Stretch(turn.start_s, turn.end_s)] = turn.speaker
    whole = Timeline([Stretch(0, recording.duration_s)])
    assert DiarizationErrorRate()(reference, found, uem=whole) <= 0.15


def test_bounds_reach_the_pipeline(diarizer, recording):
    assert len({turn.speaker for turn in run(diarizer, recording, SpeakerBounds(2, 2))}) == 2


def test_silence_for_the_pipeline_still_gives_a_turn(diarizer, tmp_path):
    with Recording(tmp_path) as silence:
        silence.append(np.zeros(48_000, np.int16))
        turns = run(diarizer, silence, SpeakerBounds(1, 8))
    assert [(turn.start_s, turn.end_s) for turn in turns] == [(0.0, 3.0)]


def test_cancelling_stops_the_pipeline(diarizer, recording):
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        run(diarizer, recording, SpeakerBounds(), cancelled)


def test_telemetry_is_off(diarizer):
    assert os.environ["PYANNOTE_METRICS_ENABLED"] == "false"


def test_a_folder_without_a_pipeline_is_named(settings, tmp_path):
    from services.asr.diarizer_pyannote import PyannoteDiarizer

    with pytest.raises(WeightsError, match="not a pyannote pipeline"):
        PyannoteDiarizer(settings.model_copy(update={"pyannote_pipeline": str(tmp_path)})).load("cpu")


def test_the_whole_engine_with_pyannote(settings, speech):
    engine = build_engine(settings)
    engine.load()
    events = list(engine.transcribe(speech / "mixed3.flac", TranscribeOptions(), threading.Event()))
    engine.close()
    summary = events[-1]
    assert isinstance(summary, Summary)
    assert len(summary.speakers) == 3
    assert any("window" in event.text for event in events if isinstance(event, Segment))
