"""Jobs as durable workflows.

DBOS keeps which jobs there are, takes up the unfinished ones after a crash (in the process that starts under the same
executor id) and carries a cancellation to whoever runs them. How far a job has got is kept elsewhere, by keys made from
the job, and what is there is not made again. So a workflow is one step that may run any number of times; results kept
by DBOS as well would be the same facts twice.

Workflows start directly and not through a DBOS queue, for a queue is polled: it would cost every job up to a polling
interval. A semaphore for each kind of job bounds what runs at the same time instead.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Generic

import structlog
from dbos import DBOS, DBOSConfig, SetWorkflowID, StepOptions

from gateway.database import Database
from gateway.jobs import CANCELLED, FAILED, SUCCEEDED, J, JobTable
from gateway.settings import GatewaySettings
from narrative.errors import Conflict, NarrativeError, to_problem

log = structlog.get_logger()

# Shape of the workflows. Raise it when steps are added, removed or reordered: jobs of another shape are left alone.
WORKFLOW_VERSION = "2"
_MAX_THREADS = 32
# Long enough for calls to be cancelled and a write to end.
_STOP_S = 5.0
# The job on its way into its workflow, which so need not read it again; none in a workflow that is taken up later.
_SUBMITTED: ContextVar[Any] = ContextVar("submitted", default=None)


class Worker(ABC, Generic[J]):
    """Runs the jobs of one table.

    Args:
        kind: name of the workflow; kept with every job, so it must not change.
        step: name of its step, likewise.
        path: where callers find such jobs.
        max_concurrent: jobs worked on at the same time.
    """

    def __init__(
        self, jobs: JobTable[J], executor_id: str, *, kind: str, step: str, path: str, max_concurrent: int
    ) -> None:
        self._jobs = jobs
        self._executor_id = executor_id
        self._kind = kind
        self._step: StepOptions = {"name": step, "preemptible": True}
        self._path = path
        self._slots = asyncio.Semaphore(max_concurrent)
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._workflow: Any = None

    @abstractmethod
    async def work(self, job: J) -> dict[str, Any]:
        """Does the job, or the rest of it; returns values for columns of its own.

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
                await self.submit(await self._jobs.get(job_id))

    async def interrupt(self) -> None:
        """Interrupts what runs; it goes on at the next start."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def submit(self, job: J) -> None:
        """Starts the workflow of a job that is in the table; a second time does nothing."""
        token = _SUBMITTED.set(job)
        try:
            with SetWorkflowID(job.id):
                await DBOS.start_workflow_async(self._workflow, job.id)
        finally:
            _SUBMITTED.reset(token)

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
        await self.submit(await self._jobs.get(job_id))

    async def forget(self, job_id: str) -> None:
        """Removes what DBOS keeps of a finished job."""
        await DBOS.delete_workflow_async(job_id)

    async def _run(self, job_id: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running[job_id] = task
        try:
            job: J = _SUBMITTED.get() or await self._jobs.get(job_id)
            names = {"request_id": job.request_id, f"{self._kind}_id": job_id}
            with structlog.contextvars.bound_contextvars(**names):
                async with self._slots:
                    if not job.is_finished:
                        await DBOS.run_step_async(self._step, self._to_the_end, job)
        finally:
            self._running.pop(job_id, None)

    async def _to_the_end(self, job: J) -> None:
        # Nobody has to wait for it: cancelling stops this task, whatever the row says.
        started = asyncio.create_task(self._jobs.start(job.id))
        try:
            results = await self.work(job)
        except Exception as error:
            await started
            await self._jobs.finish(job.id, FAILED, self._problem_of(error, job))
        else:
            await started
            await self._jobs.finish(job.id, SUCCEEDED, **results)

    def _problem_of(self, error: Exception, job: J) -> dict[str, Any]:
        if not isinstance(error, NarrativeError):
            log.error("unforeseen error", exc_info=error)
            error = NarrativeError(f"the gateway failed unexpectedly; request id {job.request_id}")
        else:
            log.info("job failed", kind=self._kind, error=type(error).__name__, detail=error.message)
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
