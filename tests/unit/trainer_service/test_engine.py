"""Trainings as processes: what they say comes through, however they end nothing is left running or half made."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from narrative.errors import (
    Cancelled,
    Conflict,
    DatasetInvalid,
    InvalidParameter,
    NarrativeError,
    NotFound,
    OutOfMemory,
)
from services.trainer.engine import (
    Training,
    TrainingCheckpoint,
    TrainingEpoch,
    TrainingNote,
    TrainingResult,
    TrainingSample,
    TrainingStep,
)
from services.trainer.engine_process import ProcessEngine

Make = Callable[..., Training]


def test_everything_a_training_says_comes_through(engine: ProcessEngine, training: Make, tmp_path: Path) -> None:
    events = list(engine.train(training(), threading.Event()))

    assert events[0] == TrainingNote("2 files, going on from run/step 0")
    assert events[1:4] == [TrainingStep(step, 3, 1, 1 / step, {"all": 1e-4}, 0.5) for step in (1, 2, 3)]
    assert events[4:6] == [TrainingSample(1, "a_fox", b"picture"), TrainingEpoch(1, 3, 0.5, None)]
    assert isinstance(events[6], TrainingResult)
    assert events[6].adapter == "seal"
    assert json.loads(events[6].measures) == {"epochsCompleted": 1, "finalLoss": 0.5}
    assert sorted(path.name for path in (tmp_path / "trainings" / ("0" * 31 + "1")).iterdir()) == [
        "lock",
        "settings.json",
    ]


def test_a_result_that_is_not_good_enough_is_no_adapter_and_is_kept(
    engine: ProcessEngine, training: Make, tmp_path: Path
) -> None:
    *_, result = engine.train(training("not good enough"), threading.Event())
    assert isinstance(result, TrainingResult)
    assert result.adapter == ""
    assert json.loads(result.measures)["unmetRequirements"] == ["similarity>=1"]
    assert (tmp_path / "trained" / "seal").is_dir()


def test_what_will_be_published_is_known_beforehand(engine: ProcessEngine) -> None:
    assert engine.check("style", '{"name": "seal"}') == "adapters/seal"
    assert engine.check("style", "{}") == "adapters/artist_seal"
    assert engine.check("whisper_lora", '{"publish_as": "my-voice"}') == "speech-models/my-voice"
    assert engine.check("pix2pix", '{"publish_as": "night"}') == "picture-models/night"


@pytest.mark.parametrize(
    ("end", "kind", "message"),
    [
        ("refuse", DatasetInvalid, "^a.png: not a readable picture$"),
        ("break", NarrativeError, "ended unexpectedly, with status 1"),
        ("memory", OutOfMemory, "run out of memory"),
    ],
)
def test_the_errors_of_a_training_keep_their_class(
    engine: ProcessEngine, training: Make, end: str, kind: type[NarrativeError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        list(engine.train(training(end), threading.Event()))
    assert type(caught.value) is kind


def test_a_training_that_is_stopped_goes_on_under_its_id(engine: ProcessEngine, training: Make) -> None:
    cancelled, steps, saved = threading.Event(), [], []

    def until_the_fifth() -> None:
        for event in engine.train(training("slow", steps=10_000), cancelled):
            if isinstance(event, TrainingStep):
                steps.append(event.step)
            if isinstance(event, TrainingCheckpoint):
                saved.append(event.step)
            if len(steps) == 5:
                cancelled.set()

    with pytest.raises(Cancelled, match="stopped at step"):
        until_the_fifth()
    assert saved == [steps[-1]]

    again = list(engine.train(training(steps=saved[0] + 2), threading.Event()))

    assert [event.step for event in again if isinstance(event, TrainingStep)] == [
        saved[0] + 1,
        saved[0] + 2,
    ]


def test_closing_the_iterator_stops_the_process(engine: ProcessEngine, training: Make, tmp_path: Path) -> None:
    events = engine.train(training("slow", steps=10_000), threading.Event())
    while not isinstance(next(events), TrainingStep):
        pass
    events.close()  # type: ignore[attr-defined]
    assert (tmp_path / "trainings" / ("0" * 31 + "1") / "run" / "step").is_file()
    assert not engine._children


def test_one_job_is_trained_once_at_a_time_and_not_forgotten_meanwhile(engine: ProcessEngine, training: Make) -> None:
    first = engine.train(training("slow", steps=10_000), threading.Event())
    next(first)
    given_up = threading.Event()
    given_up.set()
    with pytest.raises(Cancelled, match="earlier run"):
        next(engine.train(training(), given_up))
    with pytest.raises(Conflict, match="runs"):
        engine.forget("0" * 31 + "1")
    first.close()  # type: ignore[attr-defined]
    engine.forget("0" * 31 + "1")
    engine.forget("0" * 31 + "1")
    first_note, *_ = engine.train(training(), threading.Event())
    assert first_note == TrainingNote("2 files, going on from run/step 0")


@pytest.mark.parametrize(
    ("changes", "kind", "field"),
    [
        ({"dataset": "datasets/none"}, DatasetInvalid, "dataset"),
        ({"job_id": "../../etc"}, InvalidParameter, "job_id"),
        ({"steps": 0}, InvalidParameter, "max_train_steps"),
    ],
)
def test_bad_requests_name_the_field(
    engine: ProcessEngine, training: Make, tmp_path: Path, changes: dict[str, object], kind: type, field: str
) -> None:
    with pytest.raises(kind) as caught:
        list(engine.train(training(**changes), threading.Event()))
    assert caught.value.field == field
    assert not list((tmp_path / "trainings").glob("*/data*"))


def test_a_recipe_that_is_not_there_names_those_that_are(engine: ProcessEngine) -> None:
    with pytest.raises(NotFound, match="style"):
        engine.check("imaginary", "{}")


def test_a_service_that_is_killed_leaves_its_trainings_to_the_next(
    engine: ProcessEngine, training: Make, tmp_path: Path
) -> None:
    program = f"""
import sys, threading
from narrative.settings import CommonSettings
from services.trainer.engine import Training
from services.trainer.engine_process import ProcessEngine
from services.trainer.settings import TrainerSettings
settings = TrainerSettings(common=CommonSettings(data_dir={str(tmp_path)!r}))
engine = ProcessEngine(settings, {engine._command!r})
for event in engine.train({training("slow", steps=10_000)!r}, threading.Event()):
    print(event, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        while "TrainingStep" not in service.stdout.readline():
            assert service.poll() is None
        service.kill()

    # The orphan holds the lock until it finds that nobody listens any more.
    *_, last = engine.train(training(), threading.Event())

    assert isinstance(last, TrainingResult)
