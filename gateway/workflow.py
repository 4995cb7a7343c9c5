"""A narrative as a job: transcribe, then every speaker on their own, then the story.

How far one has got is kept in the object store alone: the transcript, every speaker's scene and every picture are
written whole under keys made from the narrative, and what is there is not made again. Events have keys for the same
reason.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import structlog

from gateway import speakers
from gateway.clients import Services
from gateway.events import Emitter, EventLog
from gateway.jobs import Job, Jobs, timestamp
from gateway.options import NarrativeOptions
from gateway.patience import T, patiently
from gateway.patient_objects import PatientObjects
from gateway.progress import Progress
from gateway.settings import GatewaySettings
from gateway.store import audio_key, narrative_key, speaker_key, story_key, transcript_key
from gateway.transcript import transcribe
from gateway.worker import Fresh, Worker
from narrative.errors import NarrativeError, NoSpeech
from narrative.objects import Objects
from narrative.runtime.metrics import UNFINISHED
from narrative.v1 import common_pb2

log = structlog.get_logger()
# Progress is for people; more often would only fill the table.
_STEP_EVERY_S = 0.25
# In which the next service is called; what has been made is written after that.
_NEXT_FIRST_S = 0.004


class Narrator(Worker[Job]):
    """Tells narratives."""

    def __init__(
        self, settings: GatewaySettings, jobs: Jobs, events: EventLog, objects: Objects, services: Services
    ) -> None:
        super().__init__(
            jobs,
            events,
            settings.executor_id,
            kind="narrative",
            path="/v1/narratives",
            max_concurrent=settings.max_concurrent_narratives,
        )
        self._settings = settings
        self._objects = objects
        self._services = services
        self._speakers = asyncio.Semaphore(settings.max_concurrent_speakers)
        UNFINISHED.set_function(lambda: self.unfinished)

    async def work(self, job: Job, emitter: Emitter, fresh: Fresh | None) -> dict[str, Any]:
        """Tells the story, or what an earlier run left of it."""
        objects = PatientObjects(self._objects, self._settings.retry_window_s, emitter.waiting)
        made = set() if fresh is not None else {key async for key in objects.keys(narrative_key(job.id))}
        async with Progress(objects, made) as progress:
            telling = _Telling(job, self._settings, emitter, progress, objects, self._services, self._speakers, fresh)
            await telling.run()
        return {}


class _Telling:
    """One run of one narrative's workflow."""

    def __init__(
        self,
        job: Job,
        settings: GatewaySettings,
        emitter: Emitter,
        progress: Progress,
        objects: Objects,
        services: Services,
        slots: asyncio.Semaphore,
        fresh: Fresh | None,
    ) -> None:
        self._job = job
        self._options = NarrativeOptions.model_validate(job.options)
        self._settings = settings
        self._emitter = emitter
        self._emit = emitter.emit
        self._progress = progress
        self._objects = objects
        self._services = services
        self._slots = slots
        self._fresh = fresh
        self._stepped_at: dict[str, float] = {}

    async def run(self) -> None:
        transcript = await self._once(transcript_key(self._job.id), self._transcribe)
        self._emit("transcript", "transcript", transcript)
        if not transcript["segments"]:
            raise NoSpeech(f"{self._job.filename or 'the recording'}: nobody speaks in it")
        spoken = {segment["language"] for segment in transcript["segments"]}
        told = await _together(
            [
                self._speaker(number, name, [s for s in transcript["segments"] if s["speaker"] == name], spoken)
                for number, name in enumerate(transcript["speakers"])
            ]
        )
        story = _assemble(self._job, transcript, told, await self._painter())
        self._progress.put_document(story_key(self._job.id), _json_bytes(story))

    async def _transcribe(self) -> dict[str, Any]:
        audio = self._objects.stream(audio_key(self._job.id), end=self._job.audio_bytes)
        if self._fresh is not None:
            if self._fresh.upload is not None:
                audio = _in_one_piece(self._fresh.upload)
            else:
                await self._fresh.kept.wait()
        return await transcribe(self._services, self._job.filename, self._options, audio, self._stage)

    async def _speaker(
        self, number: int, name: str, segments: list[dict[str, Any]], spoken: set[str]
    ) -> dict[str, Any]:
        async with self._slots:
            told = await self._once(
                speaker_key(self._job.id, number),
                lambda: speakers.describe(self._services, name, segments, self._options, spoken),
            )
            scene = {key: value for key, value in told.items() if key != "lines"}
            self._emit(f"scene:{name}", "scene", {"speaker": name, "scene": scene})
            images = await self._patiently(
                lambda: speakers.draw(
                    self._services,
                    self._progress,
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

    async def _painter(self) -> str:
        """Id of the model that drew; empty where that is the default and diffusion does not say which it is."""
        if self._options.model:
            return self._options.model
        try:
            models = await self._services.models("diffusion")
        except NarrativeError as error:
            # Everything is drawn: no story fails for a name.
            log.info("picture model not known", reason=str(error))
            return ""
        painters = [model for model in models if model.task == common_pb2.TASK_TEXT_TO_IMAGE]
        return next((model.id for model in painters if model.is_default), "")

    async def _once(self, key: str, make: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """What was made under ``key``, or is made now."""
        if (made := await self._progress.get(key)) is not None:
            return dict(json.loads(made))
        told = await self._patiently(make)
        self._progress.put_document(key, _json_bytes(told), _NEXT_FIRST_S)
        return told

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        return await patiently(attempt, self._settings.retry_window_s, self._emitter.waiting)

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


async def _in_one_piece(data: Awaitable[bytes]) -> AsyncIterator[bytes]:
    yield await data


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
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _assemble(job: Job, transcript: dict[str, Any], told: list[dict[str, Any]], painter: str) -> dict[str, Any]:
    texts = {key: value for speaker in told for key, value in speaker["lines"].items()}
    return {
        "id": job.id,
        "created_at": timestamp(job.created_at_us),
        "filename": job.filename,
        "duration_s": transcript["duration_s"],
        "language": transcript["language"],
        "segments": [_with_texts(segment, texts[str(segment["id"])]) for segment in transcript["segments"]],
        "speakers": [{key: value for key, value in speaker.items() if key != "lines"} for speaker in told],
        "models": transcript["models"] | {"image": painter},
        "options": job.options,
    }


def _with_texts(segment: dict[str, Any], texts: dict[str, str]) -> dict[str, Any]:
    merged = segment | texts
    if not merged["english_text"]:
        del merged["english_text"]
    return merged
