"""A way to an S3 server that can be closed, or say no to writes, as storage does that is away, read-only or full."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_METHODS = ["GET", "HEAD", "PUT", "POST", "DELETE"]
_HOP_BY_HOP = {"connection", "transfer-encoding", "content-encoding", "content-length"}


class Door:
    """Forwards requests.

    Attributes:
        refused: status and error code of every write; None lets them through.
        refused_writes: how many were.
    """

    def __init__(self, behind: str, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.refused: tuple[int, str] | None = None
        self.refused_writes = 0
        self._behind = httpx.AsyncClient(base_url=behind)
        self._port = port
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def open(self) -> None:
        app = Starlette(routes=[Route("/{path:path}", self._forward, methods=_METHODS)])
        self._server = uvicorn.Server(
            uvicorn.Config(app, port=self._port, log_config=None, timeout_graceful_shutdown=1)
        )
        self._serving = asyncio.create_task(self._server._serve())
        while not self._server.started:
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """From now on connections are refused."""
        assert self._server is not None
        assert self._serving is not None
        self._server.should_exit = True
        await self._serving

    async def _forward(self, request: Request) -> Response:
        if self.refused is not None and request.method in ("PUT", "POST", "DELETE"):
            self.refused_writes += 1
            status, code = self.refused
            return Response(f"<Error><Code>{code}</Code></Error>", status, media_type="application/xml")
        answer = await self._behind.request(
            request.method,
            httpx.URL(path=request.url.path, query=request.url.query.encode()),
            content=await request.body(),
            headers=[(name, value) for name, value in request.headers.items() if name != "accept-encoding"],
        )
        response = Response(answer.content, answer.status_code)
        for name, value in answer.headers.items():
            if name not in _HOP_BY_HOP or (name == "content-length" and request.method == "HEAD"):
                response.headers[name] = value
        return response


@asynccontextmanager
async def door(behind: str, port: int) -> AsyncIterator[Door]:
    """An open one."""
    made = Door(behind, port)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
        await made._behind.aclose()
