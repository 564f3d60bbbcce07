"""An inference over HTTP: whichever way its bytes come, the service gets the same image, once, in order.

A real server and real sockets; the service is a desk that answers with the digest of what it is given.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import random
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from adaphi.controller import direct, http, oip_routes
from adaphi.controller.inference import Inference
from adaphi.controller.oip_routes import OpenInference
from adaphi.controller.protocol import AnswerHeader, InferHeader
from adaphi.controller.service import Ticket
from adaphi.errors import NotReady, RequestError
from adaphi.model_zoo import Latency, Profile, VariantProfile

TOKEN = b"0123456789abcdef"
PIXELS = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)


class Desk:
    """Takes requests as the service does; answers at once with their digest, or, when `slow`, on call."""

    def __init__(self) -> None:
        names = ("small", "a:b", "grün 1")
        variants = tuple(
            VariantProfile(phi, name, 0.5 + phi / 10, Latency(p50=1.0, p95=1.0))
            for phi, name in enumerate(names)
        )
        self.profile = Profile(ladder="three/all", variants=variants, stall_ms=((0.0,) * 3,) * 3)
        self.asked: list[tuple[Ticket, InferHeader, bytes]] = []
        self.cancelled: list[Ticket] = []
        self.tensors: list[weakref.ref[Any]] = []
        self.slow, self.shape, self.dtype = False, (32,), "uint8"
        self.error: Exception | None = None
        self.refused: list[str] = []

    def submit(self, ticket: Ticket, header: InferHeader, tensor: Any, arrived_s: float) -> None:
        if self.error is not None:
            raise self.error
        self.asked.append((ticket, header, tensor.tobytes()))
        self.tensors.append(weakref.ref(tensor))
        if not self.slow:
            self.answer(-1)

    def answer(self, place: int, error: RequestError | None = None) -> None:
        ticket, header, pixels = self.asked[place]
        digest = hashlib.sha256(pixels).digest()
        what = AnswerHeader(
            0, header.phi or 0, "small", 1.0, 0.0, 1.0, False, self.dtype, self.shape
        )
        ticket.reply(error or what, [(digest * (self.shape[0] // 32 + 1))[: self.shape[0]]])

    def cancel(self, ticket: Ticket) -> None:
        self.cancelled.append(ticket)


class Line:
    """One connection: writes bytes, reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, Any]:
        """Return (status, JSON or None) of the next answer; (0, None) where the connection ended."""
        head = interim = b"http/1.1 100 "
        while head.startswith(interim):
            try:
                head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0, None
        length = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r")[0])
        said = await self.reader.readexactly(length)
        is_json = b"application/json" in head
        return int(head.split(b" ")[1]), json.loads(said) if is_json else None

    async def ask(self, *pieces: bytes) -> tuple[int, Any]:
        """Send a request piece by piece; return its answer."""
        for piece in pieces:
            self.writer.write(piece)
            await asyncio.sleep(0.001 if len(pieces) > 1 else 0)
        return await self.answer()


class Server:
    """A server of the desk's in this very loop."""

    def __init__(
        self, desk: Desk, token: bytes | None = None, limit_bytes: int = 8_000_000
    ) -> None:
        count = desk.refused.append
        host = SimpleNamespace(
            metrics=SimpleNamespace(ladder=desk.profile.ladder, count_refusal=count),
            profile=desk.profile,
            max_message_bytes=limit_bytes,
            serving=lambda: desk,
        )
        self.leases: list[weakref.ref[Any]] = []
        self.inference = Inference(cast(Any, host), self._lease)
        self.desk, self.room = desk, self.inference.room
        self._listener = http.bind("127.0.0.1", 0)
        routes = OpenInference(self.inference).routes()
        registry = CollectorRegistry()
        self._server = http.make_server(
            registry, lambda: True, dict, dict, routes, token, self.inference
        )

    def _lease(self, size: int) -> memoryview:
        memory = np.empty(size, np.uint8)
        self.leases.append(weakref.ref(memory))
        return memory.data

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Callable[[], Awaitable[Line]]]:
        """Serve; yield what opens a connection."""
        task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        lines: list[Line] = []

        async def connect() -> Line:
            lines.append(Line(*await asyncio.open_connection(*self._listener.getsockname())))
            return lines[-1]

        while not self._server.started:
            await asyncio.sleep(0.001)
        try:
            yield connect
        finally:
            for line in lines:
                line.writer.close()
            self._server.should_exit = True
            await task


def run(
    body: Callable[[Server, Callable[[], Awaitable[Line]]], Awaitable[None]], **options: Any
) -> None:
    """Run `body` with a server; at its end nothing is held, no room and no memory."""

    async def main() -> None:
        server = Server(Desk(), **options)
        async with server.running() as connect:
            await body(server, connect)
        assert server.room.taken_bytes == 0
        server.desk.asked.clear()
        server.desk.cancelled.clear()
        assert [memory() for memory in server.leases if memory() is not None] == []

    asyncio.run(asyncio.wait_for(main(), 10))


def request(
    pixels: Any = PIXELS,
    path: str = "/v2/models/small/infer",
    version: str = "1.1",
    how: str = "plain",
    binary: bool = False,
    **headers: str,
) -> bytes:
    """Return an inference as bytes; `how` its body is sent: plain, gzip, chunked or announced."""
    tensor = {"name": "image", "shape": pixels.shape, "datatype": "UINT8"}
    tensor["parameters"] = {"binary_data_size": pixels.nbytes}
    parameters = {"binary_data_output": binary}
    text = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    body = text + pixels.tobytes()
    lines = [f"POST {path} HTTP/{version}", "Host: x"]
    lines += [f"Inference-Header-Content-Length: {len(text)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if how == "gzip":
        body = gzip.compress(body)
        lines += ["Content-Encoding: gzip"]
    if how == "chunked":
        body = (
            b"".join(b"%x\r\n%b\r\n" % (len(b), b) for b in (body[:99], body[99:])) + b"0\r\n\r\n"
        )
        lines += ["Transfer-Encoding: chunked"]
    else:
        lines += [f"Content-Length: {len(body)}"]
    if how == "announced":
        lines += ["Expect: 100-continue"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def digest(pixels: Any = PIXELS) -> list[int]:
    """Return what the desk answers to an image."""
    return list(hashlib.sha256(pixels.tobytes()).digest())


def output(answer: tuple[int, Any]) -> list[int]:
    """Return the output of an answer that has to be one."""
    status, said = answer
    assert status == 200, said
    return list(said["outputs"][0]["data"])


def ordinary_ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with each request which goes the ordinary way."""
    seen: list[str] = []
    read_body = oip_routes.read_body

    async def noting(request: Any, *more: Any) -> Any:
        seen.append(request.url.path)
        return await read_body(request, *more)

    monkeypatch.setattr(oip_routes, "read_body", noting)
    return seen


# -------------------------------------------------------------------------------- the same image


def test_an_image_arrives_whole_however_it_is_cut() -> None:
    """In one piece or in many, cut anywhere, many times over one connection; also beyond the window."""

    async def body(server: Server, connect: Any) -> None:
        draw = random.Random(2)
        sent = request()
        head = sent.index(b"\r\n\r\n") + 4
        cuts = [[], [head], [head - 1], [head + 1], [1], [len(sent) - 1], list(range(1, 60))]
        cuts += [sorted(draw.sample(range(1, len(sent)), 5)) for _ in range(20)]
        line = await connect()
        for places in cuts:
            ends = [0, *places, len(sent)]
            pieces = [sent[a:b] for a, b in pairwise(ends)]
            assert output(await line.ask(*pieces)) == digest(), places
        large = np.random.default_rng(3).integers(0, 256, (1000, 1200, 3), np.uint8)
        assert large.nbytes > direct.WINDOW_BYTES
        assert output(await line.ask(request(large))) == digest(large)

    run(body)


@pytest.mark.parametrize(
    ("ordinary", "more"),
    [
        (False, {}),
        (True, {"how": "gzip"}),
        (True, {"how": "chunked"}),
        (True, {"how": "announced"}),
        (True, {"version": "1.0"}),
        (True, {"path": "/v2/models/small/infer?x=1"}),
        (True, {"path": "/v2/models/sm%61ll/infer"}),
    ],
)
def test_both_ways_lead_to_the_same_answer(
    monkeypatch: pytest.MonkeyPatch, ordinary: bool, more: dict[str, Any]
) -> None:
    """What is plain goes directly, all else through the framework; status, headers and JSON are the same."""
    seen = ordinary_ways(monkeypatch)

    async def body(server: Server, connect: Any) -> None:
        line = await connect()
        assert output(await line.ask(request(**more))) == digest()
        server.desk.error = NotReady("not yet")
        if more.get("version") == "1.0":
            line = await connect()
        status, said = await line.ask(request(**more))
        assert (status, said) == (503, {"error": "not yet"})
        assert server.desk.refused == ["not_ready"]

    run(body)
    assert seen == ["/v2/models/small/infer"] * 2 * ordinary


def test_every_path_pins_the_same_variant_on_both_ways() -> None:
    """With names that have to be escaped in a path, or may be."""

    async def body(server: Server, connect: Any) -> None:
        line = await connect()
        paths = {path.decode(): phi for path, phi in server.inference.targets.items()}
        assert "/v2/models/three_all/versions/gr%C3%BCn%201/infer" in paths
        assert {"/v2/models/a:b/infer", "/v2/models/a%3Ab/infer"} < set(paths)
        for path, phi in paths.items():
            for how in ("plain", "chunked"):
                assert output(await line.ask(request(path=path, how=how))) == digest()
                assert server.desk.asked[-1][1].phi == phi, (path, how)

    run(body)


def test_requests_in_one_go_are_answered_in_their_order() -> None:
    """Pipelined, one behind the other, of both ways, and however late the first one's answer is."""
    pictures = [np.full((1, 2 + k, 3), k, np.uint8) for k in range(6)]
    ways = ("plain", "plain", "gzip", "chunked", "plain", "plain")

    async def body(server: Server, connect: Any) -> None:
        server.desk.slow = True
        line = await connect()
        sent = [request(p, how=how) for p, how in zip(pictures, ways, strict=True)]
        line.writer.write(b"".join(sent) + b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        for place, picture in enumerate(pictures):
            while len(server.desk.asked) <= place:
                await asyncio.sleep(0.001)
            assert len(server.desk.asked) == place + 1
            server.desk.answer(place)
            assert output(await line.answer()) == digest(picture)
        assert (await line.answer())[0] == 200
        server.desk.slow = False
        assert output(await line.ask(request())) == digest()

    run(body)


# -------------------------------------------------------------------------------- faults and limits


def test_who_goes_away_leaves_nothing() -> None:
    """In the middle of a body, or waiting for an answer: the room is given back, the request cancelled."""

    async def body(server: Server, connect: Any) -> None:
        server.desk.slow = True
        large = request(np.zeros((300, 300, 3), np.uint8))
        for sent in (request()[:-1], large[:-1], request(), large):
            line = await connect()
            line.writer.write(sent)
            while not server.room.taken_bytes:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            line.writer.transport.abort()
            while server.room.taken_bytes:
                await asyncio.sleep(0.001)
        assert len(server.leases) == 2
        assert server.desk.cancelled == [ticket for ticket, _, _ in server.desk.asked]
        assert len(server.desk.cancelled) == 2

    run(body)


async def ended(line: Line) -> bytes:
    """Return all that still comes on a connection, to its end."""
    return await line.reader.read()


def test_a_head_that_does_not_come_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a head is answered with 408, silence with nothing; what was asked before is answered first."""
    monkeypatch.setattr(direct, "HEAD_S", 0.2)

    async def body(server: Server, connect: Any) -> None:
        half, mute, behind = await connect(), await connect(), await connect()
        half.writer.write(b"GET /healthz HT")
        server.desk.slow = True
        behind.writer.write(request())
        await asyncio.sleep(0.05)
        behind.writer.write(b"POST /v2/mod")
        assert (await half.answer())[0] == 408
        assert await ended(half) == await ended(mute) == b""
        await asyncio.sleep(0.3)
        server.desk.answer(-1)
        assert output(await behind.answer()) == digest()
        assert (await behind.answer())[0] == 408
        kept = await connect()
        server.desk.slow = False
        for _ in range(3):
            assert output(await kept.ask(request())) == digest()
            await asyncio.sleep(0.25)  # idle between two requests: another limit

    run(body)


def test_a_body_in_pieces_leaves_its_connection_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk's size that comes alone, or an empty line behind a body, begins no head: it may be idle."""
    monkeypatch.setattr(direct, "HEAD_S", 0.1)

    async def body(server: Server, connect: Any) -> None:
        chunked, plain = await connect(), await connect()
        sent = request(how="chunked")
        for place in (sent.index(b"\r\n\r\n") + 5, len(sent) - 4, len(sent)):
            chunked.writer.write(sent[:place])
            sent = sent[place:]
            await asyncio.sleep(0.02)
        assert output(await chunked.answer()) == digest()
        assert output(await plain.ask(request())) == digest()
        plain.writer.write(b"\r\n")
        await asyncio.sleep(0.3)
        for line in (chunked, plain):
            assert output(await line.ask(request())) == digest()

    run(body)


def test_connections_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "MOST_CONNECTIONS", 2)

    async def body(server: Server, connect: Any) -> None:
        lines = [await connect() for _ in range(3)]
        assert (await lines[2].answer())[0] == 503
        assert await ended(lines[2]) == b""
        lines[1].writer.close()
        await asyncio.sleep(0.1)
        for line in (lines[0], await connect()):
            assert output(await line.ask(request())) == digest()

    run(body)


@pytest.mark.parametrize("how", ["plain", "chunked"])
@pytest.mark.parametrize(
    "behind",
    [b"no HTTP\r\n\r\n", request(Upgrade="h2c", Connection="Upgrade").replace(b"/infer", b"/x")],
)
def test_what_follows_and_is_no_request_is_answered_after_what_was(behind: bytes, how: str) -> None:
    async def body(server: Server, connect: Any) -> None:
        server.desk.slow = True
        line = await connect()
        line.writer.write(request(how=how) + behind + request())
        while not server.desk.asked:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        server.desk.answer(-1)
        assert output(await line.answer()) == digest()
        assert (await line.answer())[0] == 400
        assert await ended(line) == b"" and len(server.desk.asked) == 1

    run(body)


def test_old_clients_are_sent_metrics_in_one_piece() -> None:
    """HTTP/1.0 knows no chunks."""

    async def body(server: Server, connect: Any) -> None:
        line = await connect()
        line.writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        head, _, body = (await ended(line)).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert f"content-length: {len(body)}".encode() in head.lower()

    run(body)


def test_of_long_json_one_is_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As numbers of Python's a body takes thirty times its size."""
    reading, most = 0, 0
    read = oip_routes.oip.read

    def counted(*given: Any) -> Any:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        time.sleep(0.02)
        reading -= 1
        return read(*given)

    monkeypatch.setattr(oip_routes.oip, "read", counted)
    pixels = np.zeros((200, 300, 3), np.uint8)
    tensor = {"name": "image", "shape": pixels.shape, "datatype": "UINT8", "data": pixels.tolist()}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": False}}).encode()
    head = f"POST /v2/models/small/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n"

    async def body(server: Server, connect: Any) -> None:
        lines = [await connect() for _ in range(3)]
        for line in lines:
            line.writer.write(head.encode() + text)
        for line in lines:
            assert output(await line.answer()) == digest(pixels)

    run(body)
    assert most == 1


def test_who_does_not_read_is_not_written_for() -> None:
    """Answers to a client that only asks do not pile up: it is heard no more until it reads."""
    count = 150

    async def body(server: Server, connect: Any) -> None:
        server.desk.shape = (1_000_000,)
        line = await connect()
        line.writer.transport.pause_reading()
        for _ in range(count):
            line.writer.write(request(PIXELS[:2, :2], binary=True))
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        assert len(server.desk.asked) < count
        line.writer.transport.resume_reading()
        for _ in range(count):
            assert (await line.answer())[0] == 200

    run(body)


@pytest.mark.parametrize("slow", [False, True])
def test_an_idle_connection_holds_no_picture(slow: bool) -> None:
    """Once it is answered, at once or later, nothing refers to a request's image any more."""

    async def body(server: Server, connect: Any) -> None:
        desk, line = server.desk, await connect()
        desk.slow = slow
        line.writer.write(request())
        while not desk.asked:
            await asyncio.sleep(0.001)
        if slow:
            desk.answer(0)
        assert output(await line.answer()) == digest()
        desk.asked.clear()
        assert len(desk.tensors) == 1 and desk.tensors[0]() is None

    run(body)


def test_a_body_that_stops_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a 408 in words and the end of the connection; one that is complete may wait longer."""
    monkeypatch.setattr(direct, "BODY_S", 0.05)

    async def body(server: Server, connect: Any) -> None:
        sent = request()
        for missing in (1, len(PIXELS.tobytes())):
            line = await connect()
            status, said = await line.ask(sent[:-missing])
            assert status == 408 and "0.05 s" in said["error"]
            assert await line.answer() == (0, None)
        server.desk.slow = True
        line = await connect()
        line.writer.write(sent)
        await asyncio.sleep(0.1)
        server.desk.answer(0)
        assert output(await line.answer()) == digest()

    run(body)


def test_what_does_not_fit_is_refused_when_it_was_heard_out() -> None:
    """Bodies beyond the room, or beyond what one may have: in words, and the connection lives on."""
    large = np.zeros((300, 300, 3), np.uint8)

    async def body(server: Server, connect: Any) -> None:
        line = await connect()
        server.room.taken_bytes += 1_000_000  # others' bodies
        for sent in ([request(large)], [request(large)[:1000], request(large)[1000:]]):
            status, said = await line.ask(*sent)
            assert status == 503 and "are held already" in said["error"]
        server.room.taken_bytes -= 1_000_000
        assert output(await line.ask(request(large))) == digest(large)
        status, said = await line.ask(request(np.zeros((400, 400, 3), np.uint8)))
        assert status == 413 and server.desk.refused == ["busy", "busy", "too_large"]

    run(body, limit_bytes=300_000)


@pytest.mark.parametrize(
    "begin",
    [
        b"POST /v2/models/small/infer HTTP/1.1\r\nX: ",
        b"POST /v2/models/small/infer HTTP/1.1\r\n",
        b"GET /",
        b"POST /v2/models/small/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ",
        b"POST /v2/models/small/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;x=",
    ],
)
def test_a_head_without_an_end_ends_the_connection(begin: bytes) -> None:
    """A value, headers, a path, trailers or a chunk's extension that go on and on: 400, or cut."""

    async def body(server: Server, connect: Any) -> None:
        line = await connect()
        line.writer.write(begin)
        more = b"a: b\r\n" * 200 if begin.endswith(b"\n") else b"a" * 1200
        sent = 0
        while not line.writer.is_closing():
            line.writer.write(more)
            sent += len(more)
            await asyncio.sleep(0.001)
        assert sent < 10 * direct.MAX_HEADER_BYTES
        status, said = await line.answer()
        assert status in (0, 400) and (said is None or said["error"])

    run(body)


def test_a_fault_of_ours_is_one_requests_only() -> None:
    """An exception in the service, or an answer that cannot be formed: 500 in JSON, and all goes on."""

    async def body(server: Server, connect: Any) -> None:
        line = await connect()
        server.desk.error = ZeroDivisionError("secret")
        assert await line.ask(request()) == (500, {"error": "internal error: ZeroDivisionError"})
        server.desk.error, server.desk.dtype = None, "nothing"
        status, said = await line.ask(request())
        assert status == 500 and list(said) == ["error"]
        server.desk.dtype = "uint8"
        assert output(await line.ask(request())) == digest()

    run(body)


def test_what_fails_once_it_is_queued_is_answered_once() -> None:
    """An exception behind the queue: 500 at once, and the answer that still comes goes to nobody."""

    async def body(server: Server, connect: Any) -> None:
        line, desk = await connect(), server.desk
        desk.slow, submit = True, desk.submit

        def fails(*given: Any) -> None:
            submit(*given)
            raise ZeroDivisionError

        desk.submit = fails
        assert await line.ask(request()) == (500, {"error": "internal error: ZeroDivisionError"})
        desk.slow, desk.submit = False, submit
        desk.answer(-1, NotReady("nobody hears this"))
        assert output(await line.ask(request())) == digest()

    run(body)


def test_the_token_holds_on_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it 401; as clients usually write it directly, however else it may be written the other way."""
    seen = ordinary_ways(monkeypatch)

    async def body(server: Server, connect: Any) -> None:
        line = await connect()
        good = TOKEN.decode()
        for given in ("", "Bearer x", f"Bearer {good}x", f"Basic {good}", good):
            assert (await line.ask(request(Authorization=given)))[0] == 401, given
        assert not server.desk.asked
        for given in (f"Bearer {good}", f"bearer {good}", f"BEARER  {good}"):
            assert output(await line.ask(request(Authorization=given))) == digest()

    run(body, token=TOKEN)
    assert len(seen) == 2


def test_an_offer_of_another_protocol_is_ignored() -> None:
    """As Java's client makes it with every request: the body comes along, or later, and another request."""

    async def body(server: Server, connect: Callable[[], Awaitable[Line]]) -> None:
        line = await connect()
        offer = request(Connection="Upgrade, HTTP2-Settings", Upgrade="h2c")
        end = offer.index(b"\r\n\r\n") + 4
        for cuts in ((), (end,), (9, end + 7)):
            pieces = [offer[a:b] for a, b in pairwise((0, *cuts, len(offer)))]
            status, said = await line.ask(*pieces)
            assert (status, said["outputs"][0]["data"]) == (200, digest())
        line.writer.write(offer + request())
        for _ in range(2):
            assert (await line.answer())[0] == 200

    run(body)


def test_the_body_behind_an_offer_is_never_taken_for_a_request() -> None:
    """Where it cannot be read, the connection ends in words."""

    async def body(server: Server, connect: Callable[[], Awaitable[Line]]) -> None:
        inner = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"
        for length in (f"Content-Length: {len(inner)}", "Transfer-Encoding: chunked"):
            line = await connect()
            lines = ["POST /v2 HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: h2c", length]
            head = "\r\n".join(lines) + "\r\n\r\n"
            status, said = await line.ask(head.encode(), inner)
            assert status == 400 and "Upgrade" in said["error"]
            assert await line.answer() == (0, None)

    run(body)
