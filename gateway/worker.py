"""Jobs as durable workflows.

DBOS keeps which jobs there are and takes up the unfinished ones after a crash (in the process that starts under the
same executor id). How far a job has got is kept elsewhere, by keys made from the job, and what is there is not made
again. So a workflow may run any number of times and has no steps: results kept by DBOS as well would be the same facts
twice. Whether a job was cancelled, its row says.

Workflows start directly and not through a DBOS queue, for a queue is polled: it would cost every job up to a polling
interval. A semaphore for each kind of job bounds what runs at the same time instead. A new job does not wait for its
row and its workflow either: the work begins at once, and is given up where the job cannot be kept; DBOS learns of it
meanwhile. What a crash keeps from DBOS is found in the table.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic

import structlog
from dbos import DBOS, DBOSConfig, SetWorkflowID
from sqlalchemy.exc import SQLAlchemyError

from gateway.database import Database
from gateway.events import Emitter, EventLog
from gateway.jobs import CANCELLED, FAILED, SUCCEEDED, J, JobTable
from gateway.settings import GatewaySettings
from narrative.errors import Conflict, NarrativeError, to_problem

log = structlog.get_logger()

# DBOS leaves jobs of another version alone. Without steps that could differ, a release goes on with those of others.
WORKFLOW_VERSION = "2"
_MAX_THREADS = 32
# The first service has its work by then; what DBOS does for a start would hold that up.
_HEAD_START_S = 0.05
# Between looks for jobs that another process has cancelled.
_CANCELLED_POLL_S = 1.0
# In which an upload is handed to the first service. To keep it in the same milliseconds would make both take longer,
# and what is waited for is the story, not the answer that it was accepted.
_UPLOAD_FIRST_S = 0.004
# Long enough for calls to be cancelled and a write to end.
_STOP_S = 5.0


@dataclass
class Fresh:
    """A job of which nothing can have been done before, for it is being accepted.

    Attributes:
        upload: the whole of what the caller sent along, once it is found acceptable; None where it is not at hand, or
            no longer: it is where it is kept.
        kept: set when the job and what belongs to it are kept.
    """

    upload: asyncio.Future[bytes] | None = None
    kept: asyncio.Event = field(default_factory=asyncio.Event)


class Worker(ABC, Generic[J]):
    """Runs the jobs of one table.

    Args:
        kind: name of the workflow; kept with every job, so it must not change.
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
        path: str,
        max_concurrent: int,
    ) -> None:
        self._jobs = jobs
        self._events = events
        self._executor_id = executor_id
        self._kind = kind
        self._path = path
        self._slots = asyncio.Semaphore(max_concurrent)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._workflow: Any = None

    @abstractmethod
    async def work(self, job: J, emitter: Emitter, fresh: Fresh | None) -> dict[str, Any]:
        """Does the job, or the rest of it; returns values for columns of its own.

        Args:
            emitter: of the job's events.
            fresh: None where some of it may have been done before.

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

    async def accept(
        self,
        job: J,
        check: Callable[[], Awaitable[None]] | None = None,
        keep: Callable[[], Awaitable[None]] | None = None,
        upload: bytes = b"",
    ) -> J:
        """Adds a job, or returns the one made earlier by the same request under the same key.

        The work begins meanwhile; where the job is not added it has ended, and nobody hears of it.

        Args:
            check: raises where what the caller sent along is not acceptable; no work is done on that before.
            keep: keeps it, before the job's row.
            upload: the whole of it, where it is at hand.

        Raises:
            Conflict: the key was used for another request.
        """
        fresh = Fresh()
        # Of a request with a key it is its row that says whether it is the first.
        if upload and job.idempotency_digest is None:
            fresh.upload = asyncio.get_running_loop().create_future()
        task = self._begin(job, fresh)
        try:
            if check is not None:
                await check()
            if fresh.upload is not None:
                fresh.upload.set_result(upload)
                await asyncio.sleep(_UPLOAD_FIRST_S)
            if keep is not None:
                await keep()
            kept = await self._jobs.create(job)
            if kept.id == job.id:
                fresh.kept.set()
        finally:
            fresh.upload = None
            if not fresh.kept.is_set():
                task.cancel()
                await asyncio.wait({task})
        if kept.id != job.id and kept.executor_id == self._executor_id:
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

    async def stop_cancelled(self) -> None:
        """Stops what was cancelled in another process."""
        for job_id in await self._jobs.cancelled(list(self._running)) if self._running else ():
            if (task := self._running.get(job_id)) is not None:
                task.cancel()

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
        """The workflow: stays with the work until it has ended."""
        task = self._running.get(job_id)
        if task is None:
            job = await self._jobs.get(job_id)
            if job.is_finished:
                return
            task = self._begin(job, fresh=None)
        await task

    def _begin(self, job: J, fresh: Fresh | None) -> asyncio.Task[None]:
        task = self._running[job.id] = asyncio.create_task(self._to_the_end(job, fresh))
        task.add_done_callback(lambda _: self._running.pop(job.id, None))
        return task

    async def _to_the_end(self, job: J, fresh: Fresh | None) -> None:
        names = {"request_id": job.request_id, f"{self._kind}_id": job.id}
        with structlog.contextvars.bound_contextvars(**names):
            async with self._slots:
                emitter = Emitter(self._events, job.id)
                started = asyncio.create_task(self._started(job.id, emitter, fresh))
                self._starting.add(started)
                started.add_done_callback(self._starting.discard)
                try:
                    results = await self.work(job, emitter, fresh)
                    await started
                except asyncio.CancelledError:
                    emitter.discard()
                    if fresh is not None and not fresh.kept.is_set():
                        started.cancel()
                    raise
                except Exception as error:
                    await asyncio.gather(started, return_exceptions=True)
                    await self._jobs.finish(job.id, FAILED, self._problem_of(error, job), await emitter.rest())
                else:
                    await self._jobs.finish(job.id, SUCCEEDED, None, await emitter.rest(), **results)

    async def _started(self, job_id: str, emitter: Emitter, fresh: Fresh | None) -> None:
        """Tells DBOS and whoever listens, while the work goes on."""
        if fresh is not None:
            await fresh.kept.wait()
            await asyncio.sleep(_HEAD_START_S)
            await self._submit(job_id)
        # In this order: what is cancelled before DBOS knows of it shows here, and later DBOS says so.
        if await self._jobs.start(job_id, await emitter.rest()):
            emitter.release()
        elif (task := self._running.get(job_id)) is not None:
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
        self._watching: asyncio.Task[None] | None = None

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
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Interrupts what runs; it goes on at the next start."""
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(*(worker.interrupt() for worker in self._workers))
        DBOS.destroy(destroy_registry=True)
        # DBOS had put its threads under this loop, and has taken them away.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix="gateway"))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_CANCELLED_POLL_S)
            try:
                for worker in self._workers:
                    await worker.stop_cancelled()
            except SQLAlchemyError as error:
                log.warning("cancelled jobs not looked for", error=str(error).partition("\n")[0])
