"""Is the process alive, is the ensemble ready, what does it count?"""

import asyncio

import sqlalchemy as sa
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.parts import Gateway, Parts
from gateway.problems import MEDIA_TYPE, responses
from narrative.errors import ServiceUnavailable, StorageUnavailable, to_problem

router = APIRouter(tags=["operations"])
_CHECK_S = 3.0


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """Answers as long as the event loop turns."""
    return {"status": "ok"}


@router.get("/readyz", responses=responses(503))
async def ready(request: Request, gateway: Parts) -> Response:
    """Says whether a narrative could be told now, and names what is missing.

    A trainer that is away is named as optional: narratives do without.
    """
    missing, trainer = await asyncio.gather(_missing(gateway), gateway.trainer.missing())
    if not missing:
        return JSONResponse({"status": "ready"} | ({"optional": {"trainer": trainer}} if trainer else {}))
    error = ServiceUnavailable(f"not ready: {', '.join(sorted(missing))}", retry_after_s=1.0)
    problem = dict(to_problem(error, request.url.path)) | {"missing": missing}
    return JSONResponse(problem, status_code=503, media_type=MEDIA_TYPE, headers={"Retry-After": "1"})


@router.get("/metrics", response_class=Response)
async def metrics() -> Response:
    """Prometheus metrics."""
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _missing(gateway: Gateway) -> dict[str, str]:
    services, database, objects = await asyncio.gather(
        gateway.services.missing(), _database(gateway), _objects(gateway)
    )
    return services | ({"database": database} if database else {}) | ({"objects": objects} if objects else {})


async def _database(gateway: Gateway) -> str:
    try:
        async with asyncio.timeout(_CHECK_S):
            await gateway.database.read(lambda connection: connection.execute(sa.text("SELECT 1")).scalar())
    except (sa.exc.SQLAlchemyError, TimeoutError):
        return "the database does not answer"
    return ""


async def _objects(gateway: Gateway) -> str:
    try:
        async with asyncio.timeout(_CHECK_S):
            await gateway.objects.check()
    except StorageUnavailable as error:
        return error.message
    except TimeoutError:
        return "the object store does not answer"
    return ""
