"""What happens to every request at the door: an id, a size limit, metrics, one line in the log."""

import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.problems import unforeseen
from narrative.errors import PayloadTooLarge
from narrative.runtime.metrics import LATENCY, REQUESTS

log = structlog.get_logger()
REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Edge:
    """ASGI middleware.

    Args:
        max_request_bytes: largest body of a request to any path but ``upload_paths``, which count for themselves.
    """

    def __init__(self, app: ASGIApp, max_request_bytes: int, upload_paths: frozenset[str]) -> None:
        self._app = app
        self._max_request_bytes = max_request_bytes
        self._upload_paths = upload_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID_HEADER, "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        is_upload = scope["path"] in self._upload_paths and headers.get("content-type", "").startswith("multipart/")
        started = time.perf_counter()
        status = 0
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_request_bytes and not is_upload:
                raise PayloadTooLarge(f"the request is larger than {self._max_request_bytes} bytes")
            return message

        async def labelled(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, limited, labelled)
            except Exception as error:
                # Half an answer is out: only a connection that breaks says that it is not whole.
                if status:
                    raise
                # Here, for a handler of the application would be outside of this, and know no request id.
                await unforeseen(error, scope["path"], request_id)(scope, receive, labelled)
            finally:
                seconds = time.perf_counter() - started
                # The template, not the path: ids must not become labels.
                route = getattr(scope.get("route"), "path", "unknown")
                method = f"{scope['method']} {route}"
                REQUESTS.labels("gateway", method, str(status)).inc()
                LATENCY.labels("gateway", method).observe(seconds)
                log.debug("request", method=scope["method"], route=route, status=status, duration_s=round(seconds, 4))
