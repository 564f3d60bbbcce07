"""The direct way of an inference over HTTP: the body is read to where the worker finds it, one write answers.

uvicorn and its parser, httptools, read every head. What asks for a model by its exact path with a body of a
stated length, neither compressed nor announced, while nothing else is under way on its connection, goes from
the socket to the service and back without a task, a queue or an object of a framework. All else, and what
its head alone decides (no token, too large), goes the ordinary way, through starlette.
"""

from __future__ import annotations

import asyncio
import hmac
import resource
import socket
from collections.abc import Callable, Iterable

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ..errors import RequestError
from . import oip
from .body import BODY_S
from .inference import HEADER_LENGTH, SLOW_JSON_BYTES, Inference, Sent, failure, internal, refusal
from .zmtp import allocate

MAX_HEADER_BYTES = 16 * 1024
"""What a request's line and headers may have together."""
HEAD_S = 10.0
"""How long a head may take from its first byte, or a new connection until its first head."""
MOST_CONNECTIONS = 1024
"""So many connections at most, and no more than half of the descriptors that the process may have."""
SCRATCH_BYTES = 256 * 1024
"""How much is read at a time of a body that goes through the parser."""
WINDOW_BYTES = 2 << 20
"""How much of a body may wait in the kernel, so that a client sends it in one go."""
LENGTH = HEADER_LENGTH.lower().encode()
ORDINARY = frozenset({b"content-encoding", b"transfer-encoding", b"expect"})
"""Headers with which a request goes the ordinary way."""


class Call:
    """An inference on its way; to uvicorn, the cycle of a request and its response."""

    message_event = asyncio.Event()  # uvicorn sets it, and nobody waits for it

    def __init__(
        self,
        inference: Inference,
        phi: int | None,
        size: int,
        header_length: str | None,
        send: Callable[[Sent, bool], None],
    ) -> None:
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = True
        self.missing = size
        self._inference = inference
        self._phi = phi
        self._header_length = header_length
        self._send = send
        self._visit = inference.room.visit()
        self._unfit: Sent | None = None
        # A short one has come with its head and is copied anyway.
        self._body = inference.allocate(size) if size > MAX_HEADER_BYTES else allocate(size)
        loop = asyncio.get_running_loop()
        self._arrived_s = loop.time()
        self._patience = loop.call_later(BODY_S, self._give_up)
        self._cancel: Callable[[], None] | None = None

    def place(self, scratch: memoryview) -> memoryview:
        """Return where the next bytes of the body belong; `scratch` where they are of no use any more."""
        if self._unfit is not None:
            return scratch[: self.missing]
        return self._body[len(self._body) - self.missing :]

    def add(self, piece: bytes) -> None:
        """Put the first bytes of the body, which came with the head, into their place."""
        self._body[: len(piece)] = piece
        self.received(len(piece))

    def received(self, size: int) -> None:
        """Note that so many bytes are in their place; the last ones have the request served."""
        self.missing -= size
        try:
            if self._unfit is None:
                self._visit.take(size)
        except RequestError as error:
            # The rest is read on and dropped, so that the client hears why.
            self._unfit, self._body = self._refused(error), memoryview(b"")
        if not self.missing:
            self._patience.cancel()
            self._submit()

    def abandon(self) -> None:
        """Take the request back: the client is gone."""
        self.disconnected = True
        if not self.response_complete:
            self._patience.cancel()
            if self._cancel is not None:
                self._cancel()
            self._let_go()

    def _submit(self) -> None:
        if self._unfit is not None:
            self._finish(self._unfit)
            return
        try:
            asked = oip.read(self._body, self._header_length, self._inference.takes.name)
            cancel = self._inference.submit(asked, self._phi, self._arrived_s, self._finish)
            self._cancel = None if self.response_complete else cancel
        except RequestError as error:
            self._finish(self._refused(error))
        except Exception as error:
            # A bug: whoever met it hears of it, and the others are served on.
            self._finish(internal(error))

    def _refused(self, error: RequestError) -> Sent:
        self._inference.host.metrics.count_refusal(error.code)
        return refusal(error)

    def _give_up(self) -> None:
        self.keep_alive = False
        self._finish(failure(f"the body did not arrive within {BODY_S:g} s", 408))

    def _finish(self, sent: Sent) -> None:
        # What failed once it was queued has its answer, and gets no other.
        if self.response_complete:
            return
        self.response_complete = True
        self._let_go()
        if not self.disconnected:
            self._send(sent, self.keep_alive)

    def _let_go(self) -> None:
        self._visit.leave()
        self._body, self._cancel = memoryview(b""), None  # a connection may stay idle for long


class DirectProtocol(HttpToolsProtocol, asyncio.BufferedProtocol):
    """uvicorn's HTTP with the direct way beside its own; its own errors are JSON, its heads have a limit."""

    inference: Inference | None = None
    bearer: bytes | None = None
    """What `Authorization` has to say for the direct way, if anything."""
    _scratch = memoryview(bytearray(SCRATCH_BYTES))  # one for all: it is used up at once
    _call: Call | None = None
    _unparsed = 0
    _head_due: asyncio.TimerHandle | None = None
    _last_word: Sent | None = None  # to what is no HTTP, once what came before it is answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        super().connection_made(transport)
        # To wait for much at a time, if only for a moment, has the kernel make room for it. SO_RCVBUF
        # does so within narrower limits (net.core.rmem_max) and ends the kernel's own tuning.
        connection = transport.get_extra_info("socket")
        for size in (WINDOW_BYTES, 1):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
        if len(self.connections) > _most_connections():
            self._write(failure("there are too many connections already", 503), keep_alive=False)
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take back what was asked for and is not answered."""
        super().connection_lost(exc)
        self._parsed()
        if self._call is not None:
            self._call.abandon()

    # ---------------------------------------------------------------------------- bytes

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go: to the body that is being received, or to the parser."""
        call, under_way = self._call, self.cycle
        if call is not None and call.missing:
            return call.place(self._scratch)
        # Of what may be a head no more than that: the less of a body comes along, the less is copied.
        begins = under_way is None or under_way.response_complete
        return self._scratch[:MAX_HEADER_BYTES] if begins else self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of bytes that are in their place."""
        call = self._call
        if call is None or not call.missing:
            self.data_received(self._scratch[:nbytes])
            return
        call.received(nbytes)
        if not call.missing:  # the parser saw this request's head alone: the next one gets another
            self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes | memoryview) -> None:
        """Have bytes parsed; close the connection on a head, or on trailers, without an end."""
        if self._last_word is not None:
            return
        self._unparsed += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(bytes(data[upgrade.args[0] :]))
        except httptools.HttpParserError:
            self.send_400_response("this is no HTTP request")
        if self._unparsed > MAX_HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response(f"a head has at most {MAX_HEADER_BYTES} bytes")
        settled = self._head_due is not None or self.transport.is_closing()
        # An empty line begins no head.
        if self._unparsed and not settled and bytes(data).strip(b"\r\n"):
            self._await_head()

    def _await_head(self) -> None:
        loop = asyncio.get_running_loop()
        self._head_due = loop.call_later(HEAD_S, self._give_up_head)

    def _parsed(self) -> None:
        """Note that the parser got through all that it was given, or that no more is waited for."""
        self._unparsed = 0
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _give_up_head(self) -> None:
        """Close a connection on which nothing is asked, but not before what was asked is answered."""
        self._head_due = None
        if self._is_under_way:
            self._await_head()
        elif self._unparsed:
            self._write(failure(f"no whole head within {HEAD_S:g} s", 408), keep_alive=False)
        else:
            self.transport.close()

    @property
    def _is_under_way(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Go on behind a head that offers another protocol, where the parser stops: `rest` is the body's.

        A server may ignore the offer (RFC 9110, 7.8), and some clients make it unasked, Java's by default.
        """
        self.parser = httptools.HttpRequestParser(self)
        if (call := self._call) is not None and call.missing:
            piece, rest = rest[: call.missing], rest[call.missing :]
            call.add(piece)
        if rest and not self.transport.is_closing():
            self.data_received(rest)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, or has too large a head, and close the connection.

        What was asked before it is answered first, but not where it breaks a body that is still to come.
        """
        whole = not getattr(self.cycle, "more_body", False)
        if self._is_under_way and whole:
            self._last_word = failure(msg, 400)
        else:
            self._write(failure(msg, 400), keep_alive=False)

    def on_response_complete(self) -> None:
        """Go on with the next request, or end the connection where what followed was none."""
        super().on_response_complete()
        if self._last_word is not None and not self._is_under_way:
            self._write(self._last_word, keep_alive=False)

    # ---------------------------------------------------------------------------- the parser's events

    def on_headers_complete(self) -> None:
        """Begin a request, on one of the two ways."""
        self._parsed()
        call = self._direct()
        if call is None and self.parser.should_upgrade() and self._has_body():
            # Its body would be taken for the next request.
            self.send_400_response("no other protocol is spoken here: ask without `Upgrade`")
        elif call is None:
            super().on_headers_complete()
        else:
            self.cycle = self._call = call  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body, on the direct way the one that came with the head."""
        self._parsed()
        cycle: object = self.cycle
        if isinstance(cycle, Call):
            cycle.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Take note of the end of a body; on the direct way its length told."""
        self._parsed()
        if not isinstance(self.cycle, Call):
            super().on_message_complete()

    def _has_body(self) -> bool:
        headers = dict(self.headers)
        return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

    # ---------------------------------------------------------------------------- the direct way

    def _direct(self) -> Call | None:
        """Return the inference that a head asks for, None where it goes the ordinary way."""
        inference, under_way = self.inference, self.cycle
        if inference is None or (under_way is not None and not under_way.response_complete):
            return None
        targets = inference.targets
        if self.url not in targets or self.parser.get_method() != b"POST":
            return None
        headers = dict(self.headers)
        size, length = int(headers.get(b"content-length", 0)), headers.get(LENGTH)
        limit = inference.host.max_message_bytes
        if (
            not 0 < size <= (min(limit, SLOW_JSON_BYTES) if length is None else limit)
            or not headers.keys().isdisjoint(ORDINARY)
            or self.parser.get_http_version() != "1.1"
            or self.flow.write_paused  # the framework waits for a client that does not read
            or head_bytes(self.url, self.headers) > MAX_HEADER_BYTES
            or not self._admitted(headers.get(b"authorization", b""))
        ):
            return None
        call = Call(
            inference,
            targets[self.url],
            size,
            None if length is None else length.decode("latin-1"),
            self._respond,
        )
        call.keep_alive = self.parser.should_keep_alive()
        return call

    def _admitted(self, authorization: bytes) -> bool:
        return self.bearer is None or hmac.compare_digest(authorization, self.bearer)

    def _respond(self, sent: Sent, keep_alive: bool) -> None:
        self._write(sent, keep_alive)
        self.on_response_complete()

    def _write(self, sent: Sent, keep_alive: bool) -> None:
        lines = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        lines.append(b"Content-Length: %d\r\n" % len(sent.body))
        lines += [f"{name}: {value}\r\n".encode() for name, value in sent.headers.items()]
        if not keep_alive:
            lines.append(b"Connection: close\r\n")
        self.transport.write(b"".join((STATUS_LINE[sent.status], *lines, b"\r\n", sent.body)))
        if not keep_alive:
            self.transport.close()


def _most_connections() -> int:
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return min(MOST_CONNECTIONS, descriptors // 2)


def protocol_of(inference: Inference | None, token: bytes | None) -> type[DirectProtocol]:
    """Return the protocol of a server that answers `inference`, which asks for `token` if there is one."""

    class Protocol(DirectProtocol):
        pass

    Protocol.inference = inference
    Protocol.bearer = None if token is None else b"Bearer " + token
    return Protocol


def head_bytes(path: bytes, headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return how large a head counts: its path, and its headers without what is between them."""
    return len(path) + sum(len(name) + len(value) for name, value in headers)
