"""Jobs as durable workflows.

DBOS keeps which jobs there are, takes up the unfinished ones after a crash (in the process that starts under the same
executor id) and carries a cancellation to whoever runs them. How far a job has got is kept elsewhere, by keys made from
the job, and what is there is not made again. So a workflow is one step that may run any number of times; results kept
by DBOS as well would be the same facts twice.

Workflows start directly and not through a DBOS queue, for a queue is polled: it would cost every job up to a polling
interval. A semaphore for each kind of job bounds what runs at the same time instead. A new job does not wait for its
workflow either: the work begins when its row is committed, and DBOS learns of it meanwhile. What a crash keeps from
DBOS is found in the table.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic

import structlog
from dbos import DBOS, DBOSConfig, SetWorkflowID, StepOptions

from gateway.database import Database
from gateway.events import Emitter, EventLog
from gateway.jobs import CANCELLED, FAILED, SUCCEEDED, J, JobTable
from gateway.settings import GatewaySettings
from narrative.errors import Conflict, NarrativeError, to_problem

log = structlog.get_logger()

# Shape of the workflows. Raise it when steps are added, removed or reordered: jobs of another shape are left alone.
WORKFLOW_VERSION = "2"
_MAX_THREADS = 32
# The first service has its work by then; what DBOS does for a start would hold that up.
_HEAD_START_S = 0.05
# Long enough for calls to be cancelled and a write to end.
_STOP_S = 5.0


class Worker(ABC, Generic[J]):
    """Runs the jobs of one table.

    Args:
        kind: name of the workflow; kept with every job, so it must not change.
        step: name of its step, likewise.
        path: where callers find such jobs.
        max_concurrent: jobs worked on at the same time.
    """

    def __init__(
        self,
        jobs: JobTable[J],
        events: EventLog,
        executor_id: str,
        *,
        kind: str,
        step: str,
        path: str,
        max_concurrent: int,
    ) -> None:
        self._jobs = jobs
        self._events = events
        self._executor_id = executor_id
        self._kind = kind
        self._step: StepOptions = {"name": step, "preemptible": True}
        self._path = path
        self._slots = asyncio.Semaphore(max_concurrent)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._workflow: Any = None

    @abstractmethod
    async def work(self, job: J, emitter: Emitter, is_new: bool) -> dict[str, Any]:
        """Does the job, or the rest of it; returns values for columns of its own.

        Args:
            emitter: of the job's events.
            is_new: nothing of it can have been done before.

        Raises:
            NarrativeError: the job fails with it.
        """

    def register(self) -> None:
        """Makes the workflow known to DBOS."""

        @DBOS.workflow(name=self._kind, max_recovery_attempts=None)
        async def workflow(job_id: str) -> None:
            await self._run(job_id)

        self._workflow = workflow

    async def recover(self) -> None:
        """Starts what was accepted but killed before its workflow was started; starting one twice does nothing."""
        for job_id in await self._jobs.unfinished(self._executor_id):
            if await DBOS.get_workflow_status_async(job_id) is None:
                await self._submit(job_id)

    async def interrupt(self) -> None:
        """Interrupts what runs; it goes on at the next start."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._starting, return_exceptions=True)

    async def accept(self, job: J) -> J:
        """Adds a job and begins it, or returns the one made earlier by the same request under the same key.

        Raises:
            Conflict: the key was used for another request.
        """
        kept = await self._jobs.create(job)
        if kept.id == job.id:
            self._begin(kept, is_new=True)
        elif kept.executor_id == self._executor_id:
            # Another gateway's is left to it: it may be at work on it already, and tell DBOS only later.
            await self._submit(kept.id)
        return kept

    @property
    def unfinished(self) -> int:
        """Jobs that run or wait in this process."""
        return len(self._running)

    def is_running_here(self, job_id: str) -> bool:
        return job_id in self._running

    async def cancel(self, job_id: str) -> None:
        """Stops a job for good, in this process at once and in another within a second; twice does nothing."""
        if not await self._jobs.finish(job_id, CANCELLED):
            return
        await DBOS.cancel_workflow_async(job_id)
        task = self._running.get(job_id)
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=_STOP_S)

    async def resume(self, job_id: str) -> None:
        """Takes up a job that failed or was cancelled.

        Raises:
            Conflict: it has done neither, or is still stopping.
        """
        if self.is_running_here(job_id):
            raise Conflict(f"{job_id} runs or is still stopping")
        if not await self._jobs.reopen(job_id, self._executor_id):
            job = await self._jobs.get(job_id)
            raise Conflict(f"{job_id} is {job.status}; what failed or was cancelled can be taken up again")
        await self.forget(job_id)
        await self._submit(job_id)

    async def forget(self, job_id: str) -> None:
        """Removes what DBOS keeps of a finished job."""
        await DBOS.delete_workflow_async(job_id)

    async def _submit(self, job_id: str) -> None:
        """Starts the workflow of a job; a second time does nothing."""
        with SetWorkflowID(job_id):
            await DBOS.start_workflow_async(self._workflow, job_id)

    async def _run(self, job_id: str) -> None:
        """The workflow: stays with the work until it has ended, or DBOS says that the job is cancelled."""
        task = self._running.get(job_id)
        if task is None:
            job = await self._jobs.get(job_id)
            if job.is_finished:
                return
            task = self._begin(job, is_new=False)
        await DBOS.run_step_async(self._step, asyncio.wait_for, task, None)

    def _begin(self, job: J, is_new: bool) -> asyncio.Task[None]:
        task = self._running[job.id] = asyncio.create_task(self._to_the_end(job, is_new))
        task.add_done_callback(lambda _: self._running.pop(job.id, None))
        return task

    async def _to_the_end(self, job: J, is_new: bool) -> None:
        names = {"request_id": job.request_id, f"{self._kind}_id": job.id}
        with structlog.contextvars.bound_contextvars(**names):
            async with self._slots:
                emitter = Emitter(self._events, job.id)
                started = asyncio.create_task(self._started(job.id, is_new))
                self._starting.add(started)
                started.add_done_callback(self._starting.discard)
                try:
                    results = await self.work(job, emitter, is_new)
                    await started
                except asyncio.CancelledError:
                    emitter.discard()
                    raise
                except Exception as error:
                    await asyncio.gather(started, return_exceptions=True)
                    finishing = self._jobs.finish(job.id, FAILED, self._problem_of(error, job))
                else:
                    finishing = self._jobs.finish(job.id, SUCCEEDED, **results)
                # Both in one commit, and the last event last.
                await asyncio.gather(emitter.flush(), finishing)

    async def _started(self, job_id: str, is_new: bool) -> None:
        """Tells DBOS and whoever listens, while the work goes on."""
        if is_new:
            await asyncio.sleep(_HEAD_START_S)
            await self._submit(job_id)
        # In this order: what is cancelled before DBOS knows of it shows here, and later DBOS says so.
        if not await self._jobs.start(job_id) and (task := self._running.get(job_id)) is not None:
            task.cancel()

    def _problem_of(self, error: Exception, job: J) -> dict[str, Any]:
        if not isinstance(error, NarrativeError):
            log.error("unforeseen error", exc_info=error)
            error = NarrativeError(f"the gateway failed unexpectedly; request id {job.request_id}")
        else:
            log.info("job failed", kind=self._kind, error=type(error).__name__, detail=str(error))
        return dict(to_problem(error, instance=f"{self._path}/{job.id}"))


class Workflows:
    """DBOS around the workers of this process; one per process, for DBOS is one per process.

    Args:
        database: shared with DBOS where it is SQLite, so that all connections have the same settings.
    """

    def __init__(self, settings: GatewaySettings, database: Database, workers: Sequence[Worker[Any]]) -> None:
        self._settings = settings
        self._database = database
        self._workers = workers

    async def start(self) -> None:
        """Launches DBOS, which takes up the unfinished workflows of this executor."""
        url = self._settings.database_url
        config: DBOSConfig = {
            "name": "narrative-gateway",
            "system_database_url": url,
            "executor_id": self._settings.executor_id,
            "application_version": WORKFLOW_VERSION,
            "max_executor_threads": _MAX_THREADS,
            "sys_db_pool_size": self._settings.database_pool_size,
            "enable_otlp": False,
            "log_level": "WARNING",
        }
        if url.startswith("sqlite"):
            config["system_database_engine"] = self._database.engine
        DBOS(config=config)
        logger = logging.getLogger("dbos")
        logger.handlers.clear()
        logger.propagate = True
        for worker in self._workers:
            worker.register()
        # In this thread, for DBOS runs workflows on the event loop that it finds here.
        DBOS.launch()
        for worker in self._workers:
            await worker.recover()

    async def stop(self) -> None:
        """Interrupts what runs; it goes on at the next start."""
        await asyncio.gather(*(worker.interrupt() for worker in self._workers))
        DBOS.destroy(destroy_registry=True)
        # DBOS had put its threads under this loop, and has taken them away.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix="gateway"))
