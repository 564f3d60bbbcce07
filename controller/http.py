"""The HTTP server inside the daemon's own loop: metrics, health, and whatever routes it is given.

Every error is JSON, `{"error": …}`, those of the framework and of the server below it included.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hmac
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry, make_asgi_app
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import RequestError, StartupError
from .direct import MAX_HEADER_BYTES, head_bytes, protocol_of
from .inference import Inference, refusal

PAGE = Path(__file__).with_name("page.html")
KEEP_ALIVE_S = 60
"""How long an idle connection is kept: a camera that asks every few seconds keeps its own."""
GRACE_S = 2
"""How long a shutdown waits for connections that are still busy."""
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""What is answered without a token: yes or no, and nothing else."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the daemon has its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _HeaderLimit:
    """Refuses large headers: the protocol counts only what is still incomplete after a read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (size := head_bytes(scope["raw_path"], scope["headers"])) > MAX_HEADER_BYTES:
            error = f"the headers have {size} bytes; at most {MAX_HEADER_BYTES} are read"
            await JSONResponse({"error": error}, 431)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class _Token:
    """Asks for a token, as `Bearer`, or as the password of `Basic` so that a browser can show the page.

    `Basic` only reads: browsers send it along with whatever another site makes them ask.
    """

    def __init__(self, app: ASGIApp, token: bytes) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in OPEN_PATHS or hmac.compare_digest(self._given(scope), self._token):
            await self._app(scope, receive, send)
            return
        error = "this needs the daemon's token: Authorization: Bearer TOKEN"
        headers = {"WWW-Authenticate": 'Bearer realm="adaphi", Basic realm="adaphi"'}
        await JSONResponse({"error": error}, 401, headers)(scope, receive, send)

    @staticmethod
    def _given(scope: Scope) -> bytes:
        scheme, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            return bytes(given.strip())
        if scheme.lower() == b"basic" and scope["method"] in ("GET", "HEAD"):
            try:
                return base64.b64decode(given).partition(b":")[2]
            except binascii.Error:
                return b""
        return b""


class _Metrics:
    """prometheus-client's application as an endpoint: mounted, it would answer only `/metrics/`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._app = make_asgi_app(registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {}

        async def send_whole(message: Message) -> None:
            """Send head and body with the length of it, without which HTTP/1.0 would be sent chunks."""
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            length = b"content-length", b"%d" % len(message["body"])
            await send({**start, "headers": [*start["headers"], length]})
            await send(message)

        await self._app(scope, receive, send_whole)


def make_server(
    registry: CollectorRegistry,
    is_ready: Callable[[], bool],
    status: Callable[[], dict[str, object]],
    status_with_history: Callable[[], dict[str, object]],
    routes: Sequence[Route] = (),
    token: bytes | None = None,
    inference: Inference | None = None,
) -> uvicorn.Server:
    """Return a server of `/metrics`, `/healthz`, `/readyz`, `/`, `/status` and `routes`.

    Plain requests for `inference` go past the routes. With `token` all but health asks for it. `/` is the
    live page to a browser and the state as JSON to anyone else, `/status` the state with the last minutes.
    """

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        if is_ready():
            return PlainTextResponse("ready\n")
        return PlainTextResponse("not ready: the models are not warm\n", status_code=503)

    async def state(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return FileResponse(PAGE, media_type="text/html")
        return JSONResponse(status())

    async def history(_: Request) -> Response:
        return JSONResponse(status_with_history())

    app = Starlette(
        routes=[
            Route("/", state),
            Route("/status", history),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", _Metrics(registry)),
            *routes,
        ],
        middleware=[
            Middleware(_HeaderLimit),
            *([] if token is None else [Middleware(_Token, token=token)]),
        ],
        exception_handlers={
            HTTPException: _framework_error,
            RequestError: _request_error,
            ClientDisconnect: _nobody_there,
            Exception: _our_error,
        },
    )
    config = uvicorn.Config(
        app,
        http=protocol_of(inference, token),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # or anyone could fill the log with a line for each bad request
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    return _Server(config)


def _framework_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    sent = refusal(error)
    return Response(sent.body, sent.status, sent.headers)


def _nobody_there(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # never sent: the client is gone


def _our_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"internal error: {type(error).__name__}"}, 500)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise `StartupError` saying which address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By its protocol's name, or asyncio would leave Nagle's algorithm on: 40 ms for each answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StartupError(
            f"cannot listen on http://{host}:{port}: {error.strerror}",
            help="choose another [http] port, or 0 for any free one"
            if error.errno in (errno.EADDRINUSE, errno.EACCES)
            else "choose another [http] host",
        ) from None
    return listener
