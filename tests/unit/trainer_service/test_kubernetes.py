"""Trainings as Jobs, against a fake of the Kubernetes API whose pods are processes."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from narrative.errors import (
    Cancelled,
    DatasetInvalid,
    InvalidParameter,
    NarrativeError,
    OutOfMemory,
    ServiceUnavailable,
)
from services.trainer.engine import (
    Training,
    TrainingCheckpoint,
    TrainingEvent,
    TrainingNote,
    TrainingResult,
    TrainingSample,
    TrainingStep,
)
from services.trainer.engine_kubernetes import KubernetesEngine
from services.trainer.job import launcher
from services.trainer.kubernetes_api import KubernetesApi
from services.trainer.settings import TrainerSettings
from tests.unit.trainer_service.fake_kubernetes import FakeKubernetes

PROGRAM = Path(__file__).parent / "programs" / "pod.py"
Make = Callable[..., Training]
NAME = "training-" + "0" * 31 + "1"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FakeKubernetes]:
    container = {
        "name": "training",
        "image": "colorized-narrative/trainer:0.1.0",
        "command": [sys.executable, str(PROGRAM)],
        "env": [{"name": "OBJECTS", "value": str(tmp_path / "objects")}],
    }
    pod = {"restartPolicy": "Never", "containers": [container]}
    (tmp_path / "logs").mkdir()
    template = {"metadata": {"labels": {"app": "training"}}, "spec": {"backoffLimit": 3, "template": {"spec": pod}}}
    running = FakeKubernetes(template, tmp_path / "logs")
    yield running
    running.close()


@pytest.fixture
def engine(cluster: FakeKubernetes, settings: TrainerSettings, tmp_path: Path) -> Iterator[KubernetesEngine]:
    api = KubernetesApi(cluster.url, cluster.credentials(tmp_path / "credentials"))
    running = KubernetesEngine(settings, api, look_every_s=0.02)
    running.load()
    yield running
    running.close()
    api.close()


def test_a_job_is_made_told_and_deleted(engine: KubernetesEngine, training: Make, cluster: FakeKubernetes) -> None:
    events = list(engine.train(training(), threading.Event()))

    assert events[0] == TrainingNote("2 files")
    assert [event.step for event in events if isinstance(event, TrainingStep)] == [1, 2, 3]
    assert events[-2:] == [TrainingSample(1, "a_fox", b"picture"), TrainingResult("seal", '{"finalLoss": 0.5}')]
    assert cluster.jobs == {}
    (job,) = cluster.created
    assert (job["kind"], job["metadata"]["name"], job["metadata"]["labels"]) == ("Job", NAME, {"app": "training"})
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 1, 1)
    assert job["spec"]["backoffLimit"] == 3
    assert len(cluster.template["spec"]["template"]["spec"]["containers"][0]["env"]) == 1, "the template is nobody's"


@pytest.mark.parametrize(
    ("end", "kind", "message"),
    [
        ("refuse", DatasetInvalid, "^a.png: not a readable picture$"),
        ("memory", OutOfMemory, "want of memory"),
        ("break", NarrativeError, r"pods failed \(Error\)"),
    ],
)
def test_the_errors_of_a_training_keep_their_class(
    engine: KubernetesEngine,
    training: Make,
    cluster: FakeKubernetes,
    end: str,
    kind: type[NarrativeError],
    message: str,
) -> None:
    with pytest.raises(kind, match=message) as caught:
        list(engine.train(training(end), threading.Event()))
    assert type(caught.value) is kind
    assert cluster.jobs == {}


def test_cancelling_deletes_the_job_and_its_pod_saves_a_checkpoint(
    engine: KubernetesEngine, training: Make, cluster: FakeKubernetes
) -> None:
    cancelled, events = threading.Event(), []

    def until_the_fifth() -> None:
        for event in engine.train(training("slow", steps=10_000), cancelled):
            events.append(event)
            if isinstance(event, TrainingStep) and event.step == 5:
                cancelled.set()

    with pytest.raises(Cancelled):
        until_the_fifth()
    assert isinstance(events[-1], TrainingCheckpoint)
    again = list(engine.train(training(), threading.Event()))
    assert isinstance(again[-1], TrainingResult)
    assert len(cluster.created) == 2


def test_a_service_that_was_killed_leaves_its_job_to_the_next(
    engine: KubernetesEngine, training: Make, cluster: FakeKubernetes, settings: TrainerSettings
) -> None:
    asked = training("slow", steps=30)
    engine._start(asked, NAME)

    events = list(engine.train(asked, threading.Event()))

    assert [event.step for event in events if isinstance(event, TrainingStep)] == list(range(1, 31))
    assert len(cluster.created) == 1


def test_what_a_pod_waits_for_is_told_once(engine: KubernetesEngine, training: Make, cluster: FakeKubernetes) -> None:
    no_room = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes have a free nvidia.com/gpu"}
    cluster.pending = {"phase": "Pending", "conditions": [no_room]}
    events: list[TrainingEvent] = []
    for event in engine.train(training(), threading.Event()):
        if not events:
            cluster.begin()
        events.append(event)
    waits = [event.message for event in events if isinstance(event, TrainingNote) and "waits" in event.message]
    assert waits == ["the training waits for a place: 0/3 nodes have a free nvidia.com/gpu"]
    assert isinstance(events[-1], TrainingResult)


def test_a_cluster_that_does_not_answer_leaves_the_job_alone(
    engine: KubernetesEngine, training: Make, cluster: FakeKubernetes
) -> None:
    events = engine.train(training("slow", steps=10_000), threading.Event())
    next(events)
    cluster.refuse = 503
    cluster._processes[NAME][0].kill()
    with pytest.raises(ServiceUnavailable, match="not today"):
        list(events)
    cluster.refuse = 0
    assert list(cluster.jobs) == [NAME]


@pytest.mark.parametrize(("status", "kind"), [(403, NarrativeError), (500, ServiceUnavailable)])
def test_refusals_are_told_in_the_words_of_the_api(
    engine: KubernetesEngine, training: Make, cluster: FakeKubernetes, status: int, kind: type[NarrativeError]
) -> None:
    cluster.refuse = status
    with pytest.raises(kind, match="not today") as caught:
        list(engine.train(training(), threading.Event()))
    assert type(caught.value) is kind


def test_bad_settings_make_no_job(engine: KubernetesEngine, training: Make, cluster: FakeKubernetes) -> None:
    with pytest.raises(InvalidParameter):
        list(engine.train(training(steps=0), threading.Event()))
    assert cluster.created == []


def test_a_template_that_is_missing_is_said_at_the_start(
    cluster: FakeKubernetes, settings: TrainerSettings, tmp_path: Path
) -> None:
    api = KubernetesApi(cluster.url, cluster.credentials(tmp_path / "credentials"))
    other = settings.model_copy(update={"job_template": "nothing"})
    with pytest.raises(NarrativeError, match="no CronJob 'nothing'"):
        KubernetesEngine(other, api).load()
    api.close()


def test_several_processes_are_launched_together(settings: TrainerSettings) -> None:
    def command(**fields: Any) -> tuple[str, ...]:
        return launcher(settings.model_copy(update=fields), 1, NAME)

    assert "torch.distributed.run" not in command()
    one_node = command(job_processes=4)
    assert one_node[one_node.index("--nproc-per-node") + 1] == "4"
    assert one_node[one_node.index("--master-addr") + 1] == "localhost"
    nodes = command(job_nodes=2, job_processes=8)
    assert nodes[nodes.index("--node-rank") + 1] == "1"
    assert nodes[nodes.index("--master-addr") + 1] == f"{NAME}-0.training"
    assert nodes[-2:] == ("-m", "services.trainer.cli")
