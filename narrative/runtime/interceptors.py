"""One server interceptor: request id, deadline, metrics, and errors as status codes with their detail."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import structlog

from narrative.errors import DETAIL_KEY, DeadlineExceeded, NarrativeError, ServiceUnavailable, to_detail
from narrative.runtime.metrics import LATENCY, REQUESTS

REQUEST_ID_KEY = "x-request-id"
log = structlog.get_logger()


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of ``narrative.v1``; health and reflection pass untouched.

    Args:
        service: name under which the metrics appear.
        max_deadline_s: longest a call may take; a caller's own shorter deadline holds.
        ready: says whether the engine is loaded; calls that come earlier get UNAVAILABLE.
    """

    def __init__(self, service: str, max_deadline_s: float, ready: Callable[[], bool]) -> None:
        self._service = service
        self._max_deadline_s = max_deadline_s
        self._ready = ready

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler: Any = await continuation(handler_call_details)
        path = str(handler_call_details.method)
        if handler is None or not path.startswith("/narrative."):
            return cast("grpc.RpcMethodHandler[Any, Any] | None", handler)
        method = path.rsplit("/", 1)[-1]

        async def unary(request: Any, context: Any) -> Any:
            async with self._call(method, context):
                return await behaviour(request, context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._call(method, context):
                async for response in behaviour(request, context):
                    yield response

        sides = (handler.request_streaming, handler.response_streaming)
        kind = "_".join("stream" if streaming else "unary" for streaming in sides)
        behaviour = getattr(handler, kind)
        wrap: Any = getattr(grpc, f"{kind}_rpc_method_handler")
        wrapped: grpc.RpcMethodHandler[Any, Any] = wrap(
            stream if handler.response_streaming else unary,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return wrapped

    @asynccontextmanager
    async def _call(self, method: str, context: Any) -> AsyncIterator[None]:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        request_id = metadata.get(REQUEST_ID_KEY) or uuid.uuid4().hex
        started = time.perf_counter()
        code = grpc.StatusCode.OK
        with structlog.contextvars.bound_contextvars(request_id=request_id, method=method):
            try:
                if not self._ready():
                    raise ServiceUnavailable(f"{self._service} is still loading its models", retry_after_s=2.0)
                async with asyncio.timeout(self._deadline_s(context)):
                    yield
            except NarrativeError as error:
                code = error.grpc_code
                log.info("call failed", error=type(error).__name__, detail=str(error))
                await self._abort(context, error)
            except TimeoutError:
                late = DeadlineExceeded(f"{self._service} did not finish {method} in time")
                code = late.grpc_code
                await self._abort(context, late)
            except (asyncio.CancelledError, GeneratorExit):
                code = grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:
                raise
            except Exception:
                code = grpc.StatusCode.INTERNAL
                log.exception("unforeseen error")
                unforeseen = NarrativeError(f"{self._service} failed unexpectedly; request id {request_id}")
                await self._abort(context, unforeseen)
            finally:
                seconds = time.perf_counter() - started
                REQUESTS.labels(self._service, method, code.name).inc()
                LATENCY.labels(self._service, method).observe(seconds)
                log.debug("call ended", code=code.name, duration_s=round(seconds, 3))

    def _deadline_s(self, context: Any) -> float:
        remaining_s: float | None = context.time_remaining()
        return self._max_deadline_s if remaining_s is None else min(remaining_s, self._max_deadline_s)

    @staticmethod
    async def _abort(context: Any, error: NarrativeError) -> None:
        await context.abort(error.grpc_code, error.message, ((DETAIL_KEY, to_detail(error)),))
