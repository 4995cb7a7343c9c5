"""A narrative as a durable workflow: transcribe, then every speaker on their own, then the story.

DBOS keeps which narratives there are, takes up the unfinished ones after a crash (in the process that starts under the
same executor id) and carries a cancellation to whoever runs them. How far one has got is kept in the object store
alone: the transcript, every speaker's scene and every picture are written whole under keys made from the narrative, and
what is there is not made again. So the workflow is one step that may run any number of times; results kept by DBOS as
well would be the same facts twice, and two more commits on the way to every first picture. Events have keys for the
same reason.

Workflows start directly and not through a DBOS queue, for a queue is polled: it would cost every job up to a polling
interval. Two semaphores bound what runs at the same time instead.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import structlog
from dbos import DBOS, DBOSConfig, SetWorkflowID, StepOptions

from gateway import speakers
from gateway.clients import Services
from gateway.database import Database
from gateway.events import EventLog
from gateway.jobs import CANCELLED, FAILED, SUCCEEDED, Job, Jobs, timestamp
from gateway.options import NarrativeOptions
from gateway.patience import T, patiently
from gateway.settings import GatewaySettings
from gateway.store import audio_key, speaker_key, story_key, transcript_key
from gateway.transcript import transcribe
from narrative.errors import NarrativeError, NoSpeech, NotFound, to_problem
from narrative.objects import Objects
from narrative.runtime.metrics import UNFINISHED

log = structlog.get_logger()

# Shape of the workflow. Raise it when steps are added, removed or reordered: jobs of another shape are left alone.
WORKFLOW_VERSION = "2"
_STEP: StepOptions = {"name": "tell", "preemptible": True}
_MAX_THREADS = 32
# Long enough for calls to be cancelled and a write to end.
_STOP_S = 5.0
# The job on its way into its workflow, which so need not read it again; none in a workflow that is taken up later.
_SUBMITTED: ContextVar[Job | None] = ContextVar("submitted", default=None)
# Progress is for people; more often would only fill the table.
_STEP_EVERY_S = 0.25


class Narrator:
    """Runs narratives; one per process, for DBOS is one per process.

    Args:
        database: shared with DBOS where it is SQLite, so that all connections have the same settings.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        database: Database,
        jobs: Jobs,
        events: EventLog,
        objects: Objects,
        services: Services,
    ) -> None:
        self._settings = settings
        self._database = database
        self._jobs = jobs
        self._events = events
        self._objects = objects
        self._services = services
        self._narratives = asyncio.Semaphore(settings.max_concurrent_narratives)
        self._speakers = asyncio.Semaphore(settings.max_concurrent_speakers)
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._workflow: Any = None
        UNFINISHED.set_function(lambda: self.unfinished)

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

        @DBOS.workflow(name="narrative", max_recovery_attempts=None)
        async def narrative(narrative_id: str) -> None:
            await self._run(narrative_id)

        self._workflow = narrative
        # In this thread, for DBOS runs workflows on the event loop that it finds here.
        DBOS.launch()
        # Accepted, but killed before the workflow was started; starting one twice does nothing.
        for narrative_id in await self._jobs.unfinished(self._settings.executor_id):
            if await DBOS.get_workflow_status_async(narrative_id) is None:
                await self.submit(await self._jobs.get(narrative_id))

    async def stop(self) -> None:
        """Interrupts what runs; it goes on at the next start."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        DBOS.destroy(destroy_registry=True)
        # DBOS had put its threads under this loop, and has taken them away.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix="gateway"))

    async def submit(self, job: Job) -> None:
        """Starts the workflow of a narrative that is in the table; a second time does nothing."""
        token = _SUBMITTED.set(job)
        try:
            with SetWorkflowID(job.id):
                await DBOS.start_workflow_async(self._workflow, job.id)
        finally:
            _SUBMITTED.reset(token)

    @property
    def unfinished(self) -> int:
        """Narratives that run or wait in this process."""
        return len(self._running)

    def is_running_here(self, narrative_id: str) -> bool:
        return narrative_id in self._running

    async def cancel(self, narrative_id: str) -> None:
        """Stops a narrative for good, in this process at once and in another within a second; twice does nothing."""
        if not await self._jobs.finish(narrative_id, CANCELLED):
            return
        await DBOS.cancel_workflow_async(narrative_id)
        task = self._running.get(narrative_id)
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=_STOP_S)

    async def forget(self, narrative_id: str) -> None:
        """Removes what DBOS keeps of a finished narrative."""
        await DBOS.delete_workflow_async(narrative_id)

    async def _run(self, narrative_id: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running[narrative_id] = task
        try:
            job = _SUBMITTED.get() or await self._jobs.get(narrative_id)
            with structlog.contextvars.bound_contextvars(request_id=job.request_id, narrative_id=narrative_id):
                async with self._narratives:
                    if not job.is_finished:
                        await DBOS.run_step_async(_STEP, self._tell, job)
        finally:
            self._running.pop(narrative_id, None)

    async def _tell(self, job: Job) -> None:
        # Nobody has to wait for it: cancelling stops this task, whatever the row says.
        started = asyncio.create_task(self._jobs.start(job.id))
        try:
            await _Telling(job, self._settings, self._events, self._objects, self._services, self._speakers).run()
        except Exception as error:
            await started
            await self._jobs.finish(job.id, FAILED, _problem_of(error, job))
        else:
            await started
            await self._jobs.finish(job.id, SUCCEEDED)


class _Telling:
    """One run of one narrative's workflow."""

    def __init__(
        self,
        job: Job,
        settings: GatewaySettings,
        events: EventLog,
        objects: Objects,
        services: Services,
        slots: asyncio.Semaphore,
    ) -> None:
        self._job = job
        self._options = NarrativeOptions.model_validate(job.options)
        self._settings = settings
        self._events = events
        self._objects = objects
        self._services = services
        self._slots = slots
        # Events that nobody has to wait for; they share commits, and are all in before the last one.
        self._pending: set[asyncio.Task[None]] = set()
        self._emitted: set[str] = set()
        self._stepped_at: dict[str, float] = {}
        self._waits = 0

    async def run(self) -> None:
        transcript = await self._once(transcript_key(self._job.id), self._transcribe)
        self._emit("transcript", "transcript", transcript)
        if not transcript["segments"]:
            raise NoSpeech(f"{self._job.filename or 'the recording'}: nobody speaks in it")
        told = await _together(
            [
                self._speaker(number, name, [s for s in transcript["segments"] if s["speaker"] == name])
                for number, name in enumerate(transcript["speakers"])
            ]
        )
        story = _assemble(self._job, transcript, told)
        await self._objects.put(story_key(self._job.id), _json_bytes(story))
        if self._pending:
            await asyncio.gather(*self._pending)

    async def _transcribe(self) -> dict[str, Any]:
        audio = self._objects.stream(audio_key(self._job.id))
        return await transcribe(self._services, self._job.filename, self._options, audio, self._stage)

    async def _speaker(self, number: int, name: str, segments: list[dict[str, Any]]) -> dict[str, Any]:
        async with self._slots:
            told = await self._once(
                speaker_key(self._job.id, number),
                lambda: speakers.describe(self._services, name, segments, self._options),
            )
            scene = {key: value for key, value in told.items() if key != "lines"}
            self._emit(f"scene:{name}", "scene", {"speaker": name, "scene": scene})
            images = await self._patiently(
                lambda: speakers.draw(
                    self._services,
                    self._objects,
                    self._job.id,
                    number * self._options.num_images,
                    told["prompt"],
                    seed_of(self._job),
                    self._options,
                    lambda index, step, num_steps: self._emit_step(name, index, step, num_steps),
                    lambda entry: self._emit_image(name, entry),
                )
            )
        return {**told, "images": [{**image, "url": image_url(self._job.id, image["index"])} for image in images]}

    async def _once(self, key: str, make: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """What lies under ``key``, made and put there first where nothing does."""
        try:
            return dict(json.loads(await self._objects.get(key)))
        except NotFound:
            made = await self._patiently(make)
            await self._objects.put(key, _json_bytes(made))
            return made

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        async def on_wait(error: NarrativeError) -> None:
            self._waits += 1
            log.warning("waiting for a service", detail=error.message)
            now = datetime.now(UTC).isoformat()
            self._emit(f"waiting:{now}:{self._waits}", "waiting", {"detail": error.message})

        return await patiently(attempt, self._settings.retry_window_s, on_wait)

    def _stage(self, stage: str, fraction: float) -> None:
        data = {"stage": stage, "fraction": round(fraction, 3)}
        self._emit(f"stage:{stage}:{data['fraction']}", "stage", data)

    def _emit_image(self, name: str, entry: dict[str, Any]) -> None:
        data = {"speaker": name, **entry, "url": image_url(self._job.id, entry["index"])}
        self._emit(f"image:{entry['index']}", "image", data)

    def _emit_step(self, name: str, index: int, step: int, num_steps: int) -> None:
        now = time.monotonic()
        if step < num_steps and now - self._stepped_at.get(name, 0.0) < _STEP_EVERY_S:
            return
        self._stepped_at[name] = now
        data = {"speaker": name, "index": index, "step": step, "num_steps": num_steps}
        self._emit(f"step:{index}:{step}", "image_step", data)

    def _emit(self, key: str, kind: str, data: dict[str, Any]) -> None:
        if key in self._emitted:
            return
        self._emitted.add(key)
        task = asyncio.create_task(self._events.add(self._job.id, key, kind, data))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)


def _json_bytes(data: dict[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()


def image_url(narrative_id: str, index: int) -> str:
    return f"/v1/narratives/{narrative_id}/images/{index}"


def seed_of(job: Job) -> int:
    """The narrative's seed: the caller's, or one made of its id, so that a step that runs again draws the same."""
    seed = job.options.get("seed")
    return int(seed) if seed is not None else int(hashlib.sha256(job.id.encode()).hexdigest()[:8], 16)


async def _together(parts: list[Awaitable[T]]) -> list[T]:
    """Runs all at once; the first error stops the rest and is raised as it is."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _assemble(job: Job, transcript: dict[str, Any], told: list[dict[str, Any]]) -> dict[str, Any]:
    texts = {key: value for speaker in told for key, value in speaker["lines"].items()}
    return {
        "id": job.id,
        "created_at": timestamp(job.created_at_us),
        "filename": job.filename,
        "duration_s": transcript["duration_s"],
        "language": transcript["language"],
        "segments": [_with_texts(segment, texts[str(segment["id"])]) for segment in transcript["segments"]],
        "speakers": [{key: value for key, value in speaker.items() if key != "lines"} for speaker in told],
        "models": transcript["models"] | {"image": job.options.get("model", "")},
        "options": job.options,
    }


def _with_texts(segment: dict[str, Any], texts: dict[str, str]) -> dict[str, Any]:
    merged = segment | texts
    if not merged["english_text"]:
        del merged["english_text"]
    return merged


def _problem_of(error: Exception, job: Job) -> dict[str, Any]:
    if not isinstance(error, NarrativeError):
        log.error("unforeseen error", exc_info=error)
        error = NarrativeError(f"the gateway failed unexpectedly; request id {job.request_id}")
    else:
        log.info("narrative failed", error=type(error).__name__, detail=error.message)
    return dict(to_problem(error, instance=f"/v1/narratives/{job.id}"))
