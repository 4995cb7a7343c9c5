"""Trainings as Jobs of the cluster that the service runs in."""

import asyncio
import contextlib
import copy
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import structlog

from narrative.errors import Cancelled, NarrativeError, NotFound, OutOfMemory, ServiceUnavailable, named_error
from narrative.objects import Objects
from services.trainer import job_messages, recipe_settings
from services.trainer.engine import (
    Recipe,
    Training,
    TrainingEvent,
    TrainingNote,
    TrainingResult,
    TrainingSample,
)
from services.trainer.engine_process import ProcessEngine
from services.trainer.kubernetes_api import KubernetesApi, Object
from services.trainer.settings import TrainerSettings

log = structlog.get_logger()
_LOOK_EVERY_S = 1.0


class KubernetesEngine:
    """Makes a Job of every training, tells what its first pod writes, and deletes it when it has ended.

    Where the service was killed meanwhile, the next that is asked for the same training finds the Job and listens on.

    Args:
        look_every_s: seconds between looks at a Job.
    """

    def __init__(self, settings: TrainerSettings, api: KubernetesApi, look_every_s: float = _LOOK_EVERY_S) -> None:
        self._settings, self._api, self._look_every_s = settings, api, look_every_s
        self._objects = Objects(settings.objects_url)
        # Their folders are shared with the pods, so that a training goes on from its checkpoints wherever it lands.
        self._folders = ProcessEngine(settings)
        self._closing = threading.Event()

    def load(self) -> None:
        """Makes sure that there is a template."""
        self._api.template(self._settings.job_template)
        self._folders.load()

    def close(self) -> None:
        """Stops listening."""
        self._closing.set()

    def recipes(self) -> Sequence[Recipe]:
        return recipe_settings.offered()

    def check(self, recipe: str, settings: str) -> str:
        return self._folders.check(recipe, settings)

    def forget(self, job_id: str) -> None:
        self._folders.forget(job_id)

    def train(self, training: Training, cancelled: threading.Event) -> Iterator[TrainingEvent]:
        """Yields what happens, the result last.

        Raises:
            NotFound, InvalidParameter: the recipe or a setting.
            Cancelled: it was stopped, with a checkpoint saved where it had begun.
            ServiceUnavailable: the cluster does not answer, or the service stops; the Job goes on.
            NarrativeError: what the recipe raised, or why its pods failed.
        """
        self.check(training.recipe, training.settings)
        name = f"training-{training.job_id}"
        self._start(training, name)
        heard = _Heard()
        is_left = False
        try:
            while True:
                job = self._api.job(name)
                if job is None:
                    raise Cancelled(f"Job {name} was deleted")
                yield from self._listen(training.job_id, name, heard, cancelled)
                ended = _end_of(job)
                if ended:
                    yield from self._listen(training.job_id, name, heard, cancelled)
                    result = self._result(training.job_id, name, ended)
                    self._forget_told(training.job_id)
                    yield result
                    return
                if cancelled.wait(self._look_every_s):
                    raise Cancelled("stopped; the same training again goes on from its checkpoint")
                if self._closing.is_set():
                    raise ServiceUnavailable("the trainer stops; the training goes on")
        except ServiceUnavailable:
            is_left = True
            raise
        finally:
            if not (is_left or self._closing.is_set()):
                self._api.delete_job(name)

    def _start(self, training: Training, name: str) -> None:
        """Creates the Job, unless it is there from before."""
        order = job_messages.order(training)
        found = self._api.job(name)
        if found is not None and (_end_of(found) or "deletionTimestamp" in found["metadata"]):
            # What an earlier attempt left; its pods may still be saving a checkpoint.
            self._api.delete_job(name)
            self._wait_until_gone(name)
            found = None
        if found is None:
            self._forget_told(training.job_id)
            job = job_of(self._api.template(self._settings.job_template), name, order, self._settings)
            self._api.create_job(job)
            log.info("training", job_id=training.job_id, recipe=training.recipe, job=name)

    def _forget_told(self, job_id: str) -> None:
        asyncio.run(self._objects.delete_folder(job_messages.folder_key(job_id)))

    def _wait_until_gone(self, name: str) -> None:
        while self._api.job(name) is not None:
            if self._closing.wait(self._look_every_s):
                raise ServiceUnavailable("the trainer stops")

    def _listen(self, job_id: str, name: str, heard: "_Heard", cancelled: threading.Event) -> Iterator[TrainingEvent]:
        """What the newest first pod has said since it was last heard, until it stops speaking."""
        pod = next((pod for pod in self._api.pods(name) if _is_first(pod)), None)
        if pod is None:
            return
        if waiting := _waits_for(pod):
            if heard.told != waiting:
                heard.told = waiting
                yield TrainingNote(waiting)
            return
        stopper = threading.Thread(target=self._delete_when, args=(name, cancelled, heard), daemon=True)
        heard.is_listening.set()
        stopper.start()
        try:
            with contextlib.suppress(ServiceUnavailable):  # A log that breaks off is read again from where it did.
                for number, text in enumerate(self._api.follow(pod["metadata"]["name"])):
                    if self._closing.is_set():
                        return
                    if not heard.is_new(pod["metadata"]["uid"], number):
                        continue
                    told = job_messages.read_line(text)
                    if isinstance(told, tuple):
                        yield from self._sample(job_id, *told)
                    elif told is not None:
                        yield told
                    else:
                        log.info("pod", job=name, said=text)
        finally:
            heard.is_listening.clear()
            stopper.join()

    def _delete_when(self, name: str, cancelled: threading.Event, heard: "_Heard") -> None:
        while heard.is_listening.is_set():
            if cancelled.wait(min(self._look_every_s, 0.2)):
                # Its pods get SIGTERM, save a checkpoint and end, and so does their log.
                self._api.delete_job(name)
                return

    def _sample(self, job_id: str, step: int, name: str) -> Iterator[TrainingSample]:
        with contextlib.suppress(NotFound):
            png = asyncio.run(self._objects.get(job_messages.sample_key(job_id, step, name)))
            yield TrainingSample(step, name, png)

    def _result(self, job_id: str, name: str, ended: str) -> TrainingResult:
        try:
            answer: dict[str, Any] = json.loads(asyncio.run(self._objects.get(job_messages.result_key(job_id))))
        except NotFound:
            answer = {}
        if answer.get("kind") == job_messages.RESULT:
            return TrainingResult(answer["adapter"], answer["measures"])
        if answer.get("kind") == job_messages.ERROR:
            raise named_error(answer["type"], answer["message"], field=answer["field"])
        reasons = {reason for pod in self._api.pods(name) for reason in _reasons(pod)}
        if "OOMKilled" in reasons:
            raise OutOfMemory("the training was killed for want of memory; lower train_batch_size")
        shown = ", ".join(sorted(reasons)) or ended
        raise NarrativeError(f"the training's pods failed ({shown}); the trainer's log says more")


class _Heard:
    """How far the log of a training was read; a new pod speaks from its beginning."""

    def __init__(self) -> None:
        self.told = ""
        self.is_listening = threading.Event()
        self._pod, self._lines = "", 0

    def is_new(self, pod: str, number: int) -> bool:
        if pod != self._pod:
            self._pod, self._lines = pod, 0
        if number < self._lines:
            return False
        self._lines = number + 1
        return True


def job_of(template: Object, name: str, order: str, settings: TrainerSettings) -> Object:
    """The Job of a training.

    Args:
        template: ``spec.jobTemplate`` of the suspended CronJob.
        order: the training, for the environment of its container.
    """
    metadata = copy.deepcopy(template.get("metadata", {}))
    spec = copy.deepcopy(template["spec"])
    metadata["name"] = name
    pod = spec["template"]["spec"]
    pod["subdomain"] = settings.job_subdomain
    container = pod["containers"][0]
    container["env"] = [*container.get("env", []), {"name": job_messages.VARIABLE, "value": order}]
    spec |= {
        "completionMode": "Indexed",
        "completions": settings.job_nodes,
        "parallelism": settings.job_nodes,
        "activeDeadlineSeconds": int(settings.max_deadline_s),
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _end_of(job: Object) -> str:
    """Why a Job has ended, "" where it has not."""
    for condition in job.get("status", {}).get("conditions") or ():
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return str(condition.get("reason") or condition["type"])
    return ""


def _is_first(pod: Object) -> bool:
    labels = pod["metadata"].get("labels", {})
    return str(labels.get("batch.kubernetes.io/job-completion-index", "0")) == "0"


def _waits_for(pod: Object) -> str:
    """What a pod that has not begun waits for, in words; "" where it has begun."""
    status = pod.get("status", {})
    if status.get("phase") != "Pending":
        return ""
    for one in status.get("containerStatuses") or ():
        waiting = one.get("state", {}).get("waiting", {})
        if waiting.get("reason"):
            return f"the training waits to begin: {waiting['reason']}"
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"the training waits for a place: {condition.get('message') or condition.get('reason')}"
    return "the training waits to begin"


def _reasons(pod: Object) -> Iterator[str]:
    if reason := pod.get("status", {}).get("reason"):
        yield str(reason)
    for one in pod.get("status", {}).get("containerStatuses") or ():
        ended = one.get("state", {}).get("terminated", {})
        if ended.get("reason") not in (None, "Completed"):
            yield str(ended["reason"])
