"""Metrics and health over HTTP, served inside the daemon's own loop."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from prometheus_client import CollectorRegistry, make_asgi_app
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..errors import StartupError


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the daemon has its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Metrics:
    """prometheus-client's application as an endpoint: mounted, it would answer only `/metrics/`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._app = make_asgi_app(registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def make_server(
    registry: CollectorRegistry,
    is_ready: Callable[[], bool],
    status: Callable[[], dict[str, object]],
) -> uvicorn.Server:
    """Return a server of `/metrics`, `/healthz`, `/readyz` and `/` (the daemon's state as JSON)."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        if is_ready():
            return PlainTextResponse("ready\n")
        return PlainTextResponse("not ready: the models are not warm\n", status_code=503)

    async def state(_: Request) -> Response:
        return JSONResponse(status())

    app = Starlette(
        routes=[
            Route("/", state),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", _Metrics(registry)),
        ]
    )
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", loop="asyncio")
    return _Server(config)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise `StartupError` saying which address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StartupError(
            f"cannot listen on http://{host}:{port}: {error.strerror}",
            help="choose another [http] port, or 0 for any free one",
        ) from None
    return listener
