"""From a request to a job: everything that can be refused is refused before anything is kept."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from gateway.clients import names_of
from gateway.jobs import Job, digest
from gateway.options import NarrativeOptions
from gateway.parts import Gateway
from gateway.speakers import WHISPER, drawing_request, not_understood, readable_languages, translator
from gateway.store import audio_key
from narrative.errors import InvalidInput, InvalidParameter, NarrativeError, NotFound, QueueFull, StorageUnavailable
from narrative.v1 import common_pb2

log = structlog.get_logger()
# A service that does not answer at once is asked again by the job, which can wait.
_ASK_S = 0.4


@dataclass(frozen=True, kw_only=True)
class Order:
    """A narrative that somebody asks for.

    Attributes:
        audio_digest: names the recording's bytes.
        check: raises where the recording is not acceptable.
        store_audio: writes the recording under the key it is given.
        audio: the recording, where it is small enough to be at hand.
    """

    options: NarrativeOptions
    filename: str
    media_type: str
    audio_bytes: int
    audio_digest: Callable[[], Awaitable[str]]
    check: Callable[[], Awaitable[None]]
    store_audio: Callable[[str], Awaitable[None]]
    audio: bytes = b""


async def admit(gateway: Gateway, order: Order, caller: str, idempotency_key: str | None) -> Job:
    """Makes a job of an order, or returns the one made earlier under the same key.

    Args:
        caller: digest of the API key; a key for idempotency belongs to one caller.

    Raises:
        InvalidInput: the recording is not acceptable.
        InvalidParameter: the services do not know what is asked for.
        Conflict: the key was used for another request.
        QueueFull: as many narratives are unfinished as may be.
    """
    request_digest, key_digest = "", None
    if idempotency_key:
        # Before the digest, for which all of it is read: what is no recording may be long.
        await order.check()
        request_digest = digest_of(order.options, await order.audio_digest())
        key_digest = digest(caller, idempotency_key)
        if (earlier := await gateway.jobs.earlier(key_digest, request_digest)) is not None:
            return earlier
    await check_options(gateway, order.options)
    if gateway.narrator.unfinished >= gateway.settings.max_queued_narratives:
        raise QueueFull("as many narratives wait as may wait; try again later", retry_after_s=30.0)
    job = Job.queued(
        gateway.settings.executor_id,
        request_digest,
        key_digest,
        filename=order.filename,
        media_type=order.media_type,
        audio_bytes=order.audio_bytes,
        options=order.options.model_dump(mode="json"),
    )
    try:
        kept = await gateway.narrator.accept(
            job,
            None if idempotency_key else order.check,
            lambda: order.store_audio(audio_key(job.id)),
            order.audio,
        )
    except BaseException:
        # What is wrong with the request matters more than what is wrong with the store.
        with contextlib.suppress(StorageUnavailable):
            await gateway.objects.delete_folder(f"narratives/{job.id}")
        raise
    if kept.id != job.id:
        await gateway.objects.delete_folder(f"narratives/{job.id}")
    return kept


def digest_of(options: NarrativeOptions, audio_digest: str) -> str:
    """Names a request, for its Idempotency-Key.

    Without what has its default: a release with one option more knows the requests of the one before.
    """
    asked = options.model_dump(mode="json", exclude_defaults=True)
    return digest(audio_digest, json.dumps(asked, sort_keys=True))


async def check_options(gateway: Gateway, options: NarrativeOptions) -> None:
    """Refuses names that the services do not have, drawings that diffusion would refuse later, and a language that
    nobody would understand.

    Raises:
        InvalidParameter: says which names there are, or what is accepted.
        AdapterNotFound: names those there are.
    """
    engine, by_whisper = options.translation_engine, options.translation_engine == WHISPER
    diffusion, translation, prompt, *_ = await asyncio.gather(
        _models(gateway, "diffusion" if options.model else "", options.model),
        _models(gateway, "translation" if (engine or options.language) and not by_whisper else "", engine),
        _models(
            gateway,
            "prompt" if options.scene_model or (options.language and not by_whisper) else "",
            options.scene_model,
        ),
        check_speech(gateway, options.asr_model, options.language, "asr_model"),
        _check_drawing(gateway, options),
    )
    _check("model", options.model, names_of(diffusion, common_pb2.TASK_TEXT_TO_IMAGE))
    _check("scene_model", options.scene_model, names_of(prompt, common_pb2.TASK_SCENE_WRITING))
    _check("translation_engine", engine, names_of(translation, common_pb2.TASK_TRANSLATION))
    readable, chosen = readable_languages(prompt, options.scene_model), translator(translation, engine)
    if readable and chosen.languages and options.language not in {"", *readable, *chosen.languages}:
        raise not_understood([options.language], readable, chosen, field="language")


async def check_speech(gateway: Gateway, model: str, language: str, model_field: str) -> None:
    """Refuses a speech model that there is not, and a language that none of them hears.

    Args:
        model_field: what the caller knows the model by.

    Raises:
        InvalidParameter: says which there are.
    """
    if not (model or language):
        return
    asr = await _models(gateway, "asr", model)
    _check(model_field, model, names_of(asr, common_pb2.TASK_TRANSCRIPTION))
    speech = [known for known in asr if known.task == common_pb2.TASK_TRANSCRIPTION]
    if speech and all(known.languages for known in speech):
        _check("language", language, {code for known in speech for code in known.languages})


async def _check_drawing(gateway: Gateway, options: NarrativeOptions) -> None:
    request = drawing_request(options, "what will be seen", 0, 1)
    try:
        async with asyncio.timeout(_ASK_S):
            await gateway.services.check_drawing(request)
    except (InvalidInput, NotFound):
        raise
    except (NarrativeError, TimeoutError) as error:
        log.info("options not checked", service="diffusion", reason=str(error))


async def _models(gateway: Gateway, service: str, wanted: str) -> list[common_pb2.Model]:
    if not service:
        return []
    try:
        async with asyncio.timeout(_ASK_S):
            return await gateway.services.models(service, wanted)
    except (NarrativeError, TimeoutError) as error:
        log.info("options not checked", service=service, reason=str(error))
        return []


def _check(field: str, asked: str, known: set[str]) -> None:
    if asked and known and asked not in known:
        raise InvalidParameter(f"{field}: {asked!r} is not known; there are {', '.join(sorted(known))}", field=field)
