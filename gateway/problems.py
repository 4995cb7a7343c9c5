"""Every error a caller sees is a problem document (RFC 9457), whoever found it: us, FastAPI or Starlette."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from narrative.errors import InvalidParameter, NarrativeError, StorageUnavailable, Unauthenticated, to_problem
from narrative.objects import NO_ROOM, RETRY_AFTER_S

log = structlog.get_logger()
MEDIA_TYPE = "application/problem+json"


def install(app: FastAPI) -> None:
    """Registers the handlers."""
    app.add_exception_handler(NarrativeError, _narrative_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


def response_of(error: NarrativeError, instance: str) -> JSONResponse:
    """The response for an error that we raise on purpose."""
    headers: dict[str, str] = {}
    if error.retry_after_s:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return _response(to_problem(error, instance), headers)


def unforeseen(error: Exception, instance: str, request_id: str) -> JSONResponse:
    """The response for an error that nobody raises on purpose; what it says goes to the log only."""
    log.error("unforeseen error", exc_info=error)
    if isinstance(error, OSError):
        reason = "has no room left" if error.errno in NO_ROOM else "does not answer"
        return response_of(StorageUnavailable(f"the gateway's disk {reason}", retry_after_s=RETRY_AFTER_S), instance)
    return response_of(NarrativeError(f"the gateway failed unexpectedly; request id {request_id}"), instance)


def invalid_parameter(error: ValidationError | RequestValidationError, where: str = "") -> InvalidParameter:
    """The first fault of a pydantic validation, in words, with the rest counted."""
    faults = error.errors()
    fault = faults[0]
    path = [str(part) for part in fault["loc"] if part not in ("body", "query", "path", "header")]
    field = ".".join([where, *path] if where else path)
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    if fault["type"] == "value_error":
        # Raised by a validator of ours, which names what it is about.
        return InvalidParameter(f"{fault['ctx']['error']}{more}", field=field)
    return InvalidParameter(f"{field or 'the request body'}: {fault['msg']}{more}", field=field)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says about the errors of a route."""
    content = {
        MEDIA_TYPE: {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "detail"],
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "instance": {"type": "string"},
                    "field": {"type": "string"},
                    "retry_after_s": {"type": "number"},
                },
            }
        }
    }
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


async def _narrative_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, NarrativeError)
    if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.info("request failed", error=type(error).__name__, detail=str(error))
    return response_of(error, request.url.path)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    fault = invalid_parameter(error)
    if not fault.field and "json" not in request.headers.get("content-type", ""):
        fault = InvalidParameter("the request body: send it as JSON, with Content-Type: application/json")
    return response_of(fault, request.url.path)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    # FastAPI wraps whatever comes up while it reads a body.
    if isinstance(error.__cause__, NarrativeError):
        return response_of(error.__cause__, request.url.path)
    status = HTTPStatus(error.status_code)
    problem = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": _DETAILS.get(status, str(error.detail)).format(method=request.method, path=request.url.path),
        "instance": request.url.path,
    }
    return _response(problem, dict(error.headers or {}))


def _response(problem: Mapping[str, Any], headers: Mapping[str, str]) -> JSONResponse:
    return JSONResponse(dict(problem), status_code=problem["status"], media_type=MEDIA_TYPE, headers=dict(headers))


_DETAILS = {
    HTTPStatus.BAD_REQUEST: "the request body cannot be read; JSON in UTF-8 is accepted",
    HTTPStatus.NOT_FOUND: "there is nothing at {path}; see /docs for what there is",
    HTTPStatus.METHOD_NOT_ALLOWED: "{path} does not answer {method}; see /docs for what it answers",
}
