"""The application: its parts, put together, and its routes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version

import structlog
from fastapi import Depends, FastAPI
from sqlalchemy.exc import SQLAlchemyError

from gateway import problems
from gateway.auth import require_key
from gateway.clients import Services
from gateway.database import Database
from gateway.datasets import Datasets
from gateway.edge import Edge
from gateway.events import EventLog
from gateway.fine_tunes import FineTuner, FineTunes
from gateway.jobs import Jobs
from gateway.parts import Gateway
from gateway.retention import Retention
from gateway.routes import (
    adapters,
    audio,
    datasets,
    edits,
    fine_tunes,
    gpus,
    health,
    images,
    media,
    models,
    narratives,
    page,
    reference,
    uploads,
)
from gateway.settings import GatewaySettings
from gateway.trainer import Trainer
from gateway.worker import Workflows
from gateway.workflow import Narrator
from narrative.errors import NarrativeError
from narrative.objects import Objects
from narrative.runtime.tracing import client_interceptors

log = structlog.get_logger()
_SWEEP_EVERY_S = 3600.0
_UPLOAD_PATHS = frozenset(
    {
        "/v1/adapters",
        "/v1/audio/transcriptions",
        "/v1/datasets",
        "/v1/images/edits",
        "/v1/narratives",
        "/v1/uploads",
    }
)


def create_app(settings: GatewaySettings, *, tracing: bool = False) -> FastAPI:
    """Builds the application; connections open when it starts."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            try:
                app.state.gateway = await stack.enter_async_context(running(settings, tracing=tracing))
            except Exception as error:
                _say_why(error)
                raise
            yield

    app = FastAPI(
        title="ColorizedNarrative",
        version=version("colorized-narrative"),
        summary="Speech goes in; an illustrated story comes out.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    app.add_middleware(Edge, max_request_bytes=settings.max_request_bytes, upload_paths=_UPLOAD_PATHS)
    for router in (
        narratives.router,
        media.router,
        uploads.router,
        audio.router,
        edits.router,
        images.router,
        models.router,
        gpus.router,
        datasets.router,
        fine_tunes.router,
        adapters.router,
    ):
        app.include_router(router, dependencies=[Depends(require_key)])
    for router in (health.router, page.router, reference.router):
        app.include_router(router)
    if tracing:
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(app)
    return app


@contextlib.asynccontextmanager
async def running(settings: GatewaySettings, *, tracing: bool = False) -> AsyncIterator[Gateway]:
    """Opens the parts, and closes them in the opposite order."""
    for folder in settings.local_folders:
        folder.mkdir(parents=True, exist_ok=True)
    objects = Objects(settings.object_store_url)
    database = Database(settings.database_url, settings.database_pool_size)
    events = EventLog(database, settings.event_poll_s)
    jobs = Jobs(database, events)
    kept_datasets = Datasets(database, objects)
    services = Services(settings, client_interceptors(tracing))
    trainer = Trainer(settings, client_interceptors(tracing))
    trainings = FineTunes(database, events)
    fine_tuner = FineTuner(settings, trainings, events, objects, kept_datasets, trainer)
    narrator = Narrator(settings, jobs, events, objects, services)
    retention = Retention(settings, jobs, objects, narrator)
    workflows = Workflows(settings, database, [narrator, fine_tuner])
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        stack.push_async_callback(services.close)
        stack.push_async_callback(trainer.close)
        await database.migrate()
        stack.push_async_callback(workflows.stop)
        await workflows.start()
        sweeper = asyncio.create_task(_sweep(objects, kept_datasets, retention, settings.upload_retention_s))
        stack.callback(sweeper.cancel)
        stack.callback(events.close)
        log.info("ready", database=settings.database_url.split(":", 1)[0], executor_id=settings.executor_id)
        yield Gateway(
            settings,
            database,
            events,
            jobs,
            objects,
            services,
            narrator,
            kept_datasets,
            trainer,
            trainings,
            fine_tuner,
            retention,
        )


def _say_why(error: Exception) -> None:
    """Logs why the gateway cannot start, in one line where that is enough."""
    if isinstance(error, OSError | SQLAlchemyError | NarrativeError):
        reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
        log.error("cannot start", error=type(error).__name__, detail=reason)
    else:
        log.error("cannot start", exc_info=error)


async def _sweep(objects: Objects, datasets: Datasets, retention: Retention, retention_s: float) -> None:
    """Removes what is kept for a time only when that is up, and what was cut off on its way in."""
    sweeps: dict[str, Callable[[], Awaitable[None]]] = {
        "uploads": lambda: objects.delete_folder("uploads", retention_s),
        "generated": lambda: objects.delete_folder("generated", retention_s),
        "readiness": lambda: objects.delete_folder("readiness", retention_s),
        "datasets": lambda: datasets.sweep(retention_s),
        "narratives": retention.sweep,
    }
    while True:
        for folder, sweep in sweeps.items():
            try:
                await sweep()
            except Exception as error:
                log.warning("sweep failed", folder=folder, error=str(error))
        await asyncio.sleep(_SWEEP_EVERY_S)
