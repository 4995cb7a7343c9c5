"""Fine-tunes as jobs: a training on a data set, from the request to the adapter.

What has been learned is in the trainer's checkpoints under the job's id, so a job that is taken up again goes on there.
"""

import hashlib
import json
import re
import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gateway.database import Database, job_columns, metadata
from gateway.datasets import Datasets
from gateway.events import Emitter, EventLog
from gateway.jobs import UNFINISHED, BaseJob, JobTable, digest
from gateway.patience import patiently
from gateway.patient_objects import PatientObjects
from gateway.settings import GatewaySettings
from gateway.store import dataset_key, sample_key
from gateway.trainer import Trainer
from gateway.worker import Fresh, Worker
from narrative.errors import (
    Cancelled,
    Conflict,
    InvalidParameter,
    ModelOutputInvalid,
    QueueFull,
    ServiceUnavailable,
    StorageUnavailable,
)
from narrative.objects import Objects
from narrative.v1 import trainer_pb2

NOUN = "fine-tune"
# What goes away by itself: a trainer that is down, full, was stopped, or cannot read. A want of memory does not.
_PASSING = (ServiceUnavailable, StorageUnavailable, QueueFull, Cancelled)
_STEP_EVERY_S = 0.25

_UNFINISHED = sa.text("status IN ('queued', 'running')")

fine_tunes = sa.Table(
    "fine_tunes",
    metadata,
    *job_columns(),
    sa.Column("recipe", sa.String(64), nullable=False),
    sa.Column("dataset", sa.String(32), nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("adapter", sa.String(64)),
    sa.Column("measures", sa.JSON),
    sa.Column("publishes", sa.String(128)),
    sa.Index("fine_tunes_by_age", "created_at_us", "id"),
    sa.Index("fine_tunes_by_status", "status", "created_at_us", "id"),
    # Two that would publish under one name at once: the later would win, whoever that is.
    sa.Index("fine_tunes_publishing", "publishes", unique=True, sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED),
)


@dataclass(frozen=True, kw_only=True)
class FineTune(BaseJob):
    """One training.

    Attributes:
        dataset: id of the data set.
        settings: as they were asked for, by name.
        adapter: name to draw with; None before the end, and where the result is no such adapter.
        measures: what the recipe measured, by name; None before the end.
        publishes: what the result will be published as, such as "adapters/seal"; None where it will not be.
    """

    recipe: str
    dataset: str
    settings: dict[str, Any]
    adapter: str | None
    measures: dict[str, Any] | None
    publishes: str | None


class FineTunes(JobTable[FineTune]):
    """The table of fine-tunes."""

    def __init__(self, database: Database, log: EventLog) -> None:
        super().__init__(database, log, fine_tunes, FineTune, NOUN)

    async def create(self, job: FineTune) -> FineTune:
        """As for every job.

        Raises:
            Conflict: another unfinished one publishes under the same name; names it.
        """
        try:
            return await super().create(job)
        except IntegrityError as error:
            raise await self._clash(job) from error

    async def reopen(self, job_id: str, executor_id: str) -> bool:
        """As for every job; raises Conflict as ``create``."""
        try:
            return await super().reopen(job_id, executor_id)
        except IntegrityError as error:
            raise await self._clash(await self.get(job_id)) from error

    async def _clash(self, job: FineTune) -> Conflict:
        query = sa.select(fine_tunes.c.id).where(
            fine_tunes.c.publishes == job.publishes, fine_tunes.c.status.in_(UNFINISHED), fine_tunes.c.id != job.id
        )
        other = await self._database.read(lambda connection: connection.execute(query).scalar())
        name = (job.publishes or "").rpartition("/")[2]
        return Conflict(
            f"fine-tune {other or 'of a moment ago'} is to become {name!r} too; wait for it, cancel it, or take "
            "another name",
            field="settings",
        )

    async def unfinished_on(self, dataset_id: str) -> str | None:
        """Id of a fine-tune that still needs a data set; None where there is none."""
        query = sa.select(fine_tunes.c.id).where(
            fine_tunes.c.dataset == dataset_id, fine_tunes.c.status.in_(UNFINISHED)
        )
        found: str | None = await self._database.read(lambda connection: connection.execute(query).scalar())
        return found


class FineTuner(Worker[FineTune]):
    """Has fine-tunes trained by the trainer."""

    def __init__(
        self,
        settings: GatewaySettings,
        jobs: FineTunes,
        events: EventLog,
        objects: Objects,
        datasets: Datasets,
        trainer: Trainer,
    ) -> None:
        super().__init__(
            jobs,
            events,
            settings.executor_id,
            kind="fine_tune",
            path="/v1/fine-tunes",
            max_concurrent=settings.max_concurrent_fine_tunes,
        )
        self._settings = settings
        self._objects = objects
        self._datasets = datasets
        self._trainer = trainer

    async def admit(
        self, recipe: str, dataset_id: str, settings: dict[str, Any], caller: str, idempotency_key: str | None
    ) -> FineTune:
        """Makes a job of a request, or returns the one made earlier under the same key.

        Args:
            caller: digest of the API key; a key for idempotency belongs to one caller.

        Raises:
            NotFound: no such recipe or data set.
            InvalidParameter: a setting; names it.
            Conflict: the key was used for another request, or another fine-tune publishes under the same name.
            QueueFull: as many fine-tunes are unfinished as may be.
            ServiceUnavailable: there is nobody to train.
        """
        text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
        try:
            request_digest = digest(recipe, dataset_id, text)
        except UnicodeEncodeError as error:
            raise InvalidParameter("settings: half a surrogate pair is no text", field="settings") from error
        key_digest = digest(NOUN, caller, idempotency_key) if idempotency_key else None
        earlier = await self._jobs.earlier(key_digest, request_digest)
        if earlier is not None:
            return earlier
        await self._datasets.get(dataset_id)
        try:
            publishes = await self._trainer.check(recipe, text)
        except InvalidParameter as error:
            field = f"settings.{error.field}" if error.field not in ("", "settings") else "settings"
            raise InvalidParameter(error.message, field=field) from error
        if self.unfinished >= self._settings.max_queued_fine_tunes:
            raise QueueFull("as many fine-tunes wait as may wait; try again later", retry_after_s=60.0)
        return await self.accept(
            FineTune.queued(
                self._settings.executor_id,
                request_digest,
                key_digest,
                recipe=recipe,
                dataset=dataset_id,
                settings=settings,
                adapter=None,
                measures=None,
                publishes=publishes or None,
            )
        )

    async def work(self, job: FineTune, emitter: Emitter, fresh: Fresh | None) -> dict[str, Any]:
        """Trains, from the trainer's last checkpoint if there is one; returns the adapter's name and its measures."""
        if fresh is not None:
            # The trainer writes under the job's id: no other may turn out to have been asked for the same.
            await fresh.kept.wait()
        objects = PatientObjects(self._objects, self._settings.retry_window_s, emitter.waiting)
        run = _Run(job, emitter, objects, self._trainer)
        result = None
        while result is None:
            result = await patiently(run.attempt, self._settings.retry_window_s, emitter.waiting, _PASSING)
        measures = json.loads(result.measures or "{}")
        emitter.emit("result", "result", {"adapter": result.adapter or None, "measures": measures})
        return {"adapter": result.adapter or None, "measures": measures}


class _Run:
    """The calls of one job, until one of them comes to its end."""

    def __init__(self, job: FineTune, emitter: Emitter, objects: Objects, trainer: Trainer) -> None:
        self._job_id = job.id
        self._request = trainer_pb2.TrainRequest(
            job_id=job.id,
            recipe=job.recipe,
            settings=json.dumps(job.settings, ensure_ascii=False),
            dataset=dataset_key(job.dataset),
        )
        self._emitter = emitter
        self._objects = objects
        self._trainer = trainer
        self._furthest_step = 0
        self._told_at_s = 0.0

    async def attempt(self) -> trainer_pb2.TrainingResult | None:
        """One call; None where it broke off after it had come further than those before."""
        furthest = self._furthest_step
        try:
            async for response in self._trainer.train(self._request):
                if response.WhichOneof("payload") == "result":
                    return response.result
                await self._tell(response)
        except _PASSING as error:
            if self._furthest_step == furthest:
                raise
            await self._emitter.waiting(error)
            return None
        raise ModelOutputInvalid("trainer ended the call without a result")

    async def _tell(self, response: trainer_pb2.TrainResponse) -> None:
        emit, kind = self._emitter.emit, str(response.WhichOneof("payload"))
        if kind == "note":
            message = response.note.message
            emit(f"note:{hashlib.sha256(message.encode()).hexdigest()[:32]}", "note", {"message": message})
        elif kind == "step":
            self._tell_step(response.step)
        elif kind == "epoch":
            epoch = response.epoch
            data: dict[str, Any] = {"epoch": epoch.epoch, "step": epoch.step, "loss": epoch.loss}
            if epoch.HasField("validation_loss"):
                data["validation_loss"] = epoch.validation_loss
            emit(f"epoch:{epoch.epoch}", "epoch", data)
        elif kind == "checkpoint":
            emit(f"checkpoint:{response.checkpoint.step}", "checkpoint", {"step": response.checkpoint.step})
        elif kind == "sample":
            sample = response.sample
            name = re.sub(r"[^A-Za-z0-9_-]", "_", sample.name)[:64] or "sample"
            await self._objects.put(sample_key(self._job_id, sample.step, name), sample.png)
            url = f"/v1/fine-tunes/{self._job_id}/samples/{sample.step}/{name}"
            emit(f"sample:{sample.step}:{name}", "sample", {"step": sample.step, "name": name, "url": url})

    def _tell_step(self, step: trainer_pb2.TrainingStep) -> None:
        self._furthest_step = max(self._furthest_step, step.step)
        now_s = time.monotonic()
        if step.step < step.num_steps and now_s - self._told_at_s < _STEP_EVERY_S:
            return
        self._told_at_s = now_s
        data = {
            "step": step.step,
            "num_steps": step.num_steps,
            "epoch": step.epoch,
            "loss": step.loss,
            "rates": dict(step.rates),
            "left_s": round(step.left_s, 1),
        }
        self._emitter.emit(f"step:{step.step}", "step", data)
