"""ZeroMQ's protocol spoken by plain sockets: with libzmq on the other side, cut anywhere, and broken."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from adaphi.controller import local, zmtp
from adaphi.controller.connection import PlainConnection
from adaphi.controller.local import BURST, LocalRouter
from adaphi.controller.stream import address_of

LIMIT_BYTES = 1_000_000
SIZES = (0, 1, 255, 256, 8191, 8192, 16_383, 16_384, 40_000, 70_000)


def fed(wire: zmtp.Wire, data: bytes, cuts: Iterator[int]) -> list[list[bytes]]:
    """Give a wire these bytes in pieces, and return what it makes of them."""
    messages, place = [], 0
    while place < len(data):
        buffer = wire.buffer()
        count = min(next(cuts), len(buffer), len(data) - place)
        buffer[:count] = data[place : place + count]
        place += count
        messages += [[bytes(frame) for frame in message] for message in wire.received(count)]
    return messages


def opened(kind: bytes = b"ROUTER", partner: bytes = b"DEALER") -> zmtp.Wire:
    """Return a wire whose handshake is done."""
    wire = zmtp.Wire(kind, LIMIT_BYTES)
    assert fed(wire, zmtp.greeting() + zmtp.ready(partner), iter((1000,))) == [] and wire.is_open
    return wire


def on_wire(frames: list[bytes]) -> bytes:
    return b"".join(map(bytes, zmtp.encode(frames)))


@given(
    st.lists(st.lists(st.sampled_from(SIZES), min_size=1, max_size=5), min_size=1, max_size=4),
    st.lists(st.integers(1, 70_000), min_size=1, max_size=20),
)
def test_wherever_a_stream_is_cut_the_messages_are_the_same(
    sizes: list[list[int]], cuts: list[int]
) -> None:
    """What `encode` makes comes out as it was, in any pieces that a socket may give."""
    sent = [[bytes([k % 251]) * size for k, size in enumerate(one)] for one in sizes]
    sent = [one for one in sent if sum(map(len, one)) <= LIMIT_BYTES]
    data = b"".join(map(on_wire, sent))
    assert fed(opened(), data, iter(cuts * (len(data) + 1))) == sent


BROKEN = {
    "no greeting": b"GET / HTTP/1.1\r\n\r\n",
    "version 2": b"\xff" + bytes(8) + b"\x7f\x01",
    "security": zmtp.greeting().replace(b"NULL\0", b"CURVE"),
    "no READY": zmtp.greeting() + b"\x04\x05\x04PING",
    "a message first": zmtp.greeting() + on_wire([b"ADP1"]),
    "a publisher": zmtp.greeting() + zmtp.ready(b"PUB"),
    "a READY that ends early": zmtp.greeting() + b"\x04\x0b\x05READY\x0bSock",
    "an empty command": zmtp.greeting() + b"\x04\x00",
    "unknown flags": zmtp.greeting() + zmtp.ready(b"DEALER") + b"\x08\x00",
    "a frame too long": zmtp.greeting() + zmtp.ready(b"DEALER") + b"\x02" + struct.pack(">Q", 2**62),
    "too many frames": zmtp.greeting() + zmtp.ready(b"DEALER") + b"\x01\x00" * 100,
    "a message too long": zmtp.greeting()
    + zmtp.ready(b"DEALER")
    + 2 * (b"\x03" + struct.pack(">Q", 600_000) + bytes(600_000)),
    "an error": zmtp.greeting() + zmtp.ready(b"DEALER") + b"\x04\x07\x05ERROR\x00",
}  # fmt: skip


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("piece", [1, 100_000])
def test_what_is_not_the_protocol_ends_the_connection(data: bytes, piece: int) -> None:
    with pytest.raises(zmtp.Broken):
        fed(zmtp.Wire(b"ROUTER", LIMIT_BYTES), data, iter([piece] * len(data)))


@given(st.binary(max_size=400), st.booleans())
def test_random_bytes_give_messages_or_break(data: bytes, greeted: bool) -> None:
    wire = opened() if greeted else zmtp.Wire(b"ROUTER", LIMIT_BYTES)
    try:
        messages = fed(wire, data, iter([7] * 400))
    except zmtp.Broken:
        return
    assert greeted or not messages


def test_a_ping_is_answered_with_its_context() -> None:
    wire = opened()
    wire.answers.clear()
    fed(wire, b"\x04\x0b\x04PING\x00\x14ctxt", iter([100]))
    assert wire.answers == [b"\x04\x09\x04PONGctxt"]


# ------------------------------------------------------------------------------------ beside libzmq


@contextmanager
def echo(address: str) -> Iterator[LocalRouter]:
    """Run a router in a thread that sends back what it gets."""
    routers: list[LocalRouter] = []
    running, over = threading.Event(), threading.Event()

    async def main() -> None:
        router = LocalRouter(address, LIMIT_BYTES, lambda peer, frames: peer.send(frames))
        routers.append(router)
        running.set()
        while not over.is_set():
            await asyncio.sleep(0.01)
        router.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert running.wait(10)
        yield routers[0]
    finally:
        over.set()
        thread.join()


@pytest.fixture(params=["ipc", "tcp", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "ipc": f"ipc://{tmp_path}/s",
        "tcp": f"tcp://127.0.0.1:{port}",
        "abstract": f"ipc://@{tmp_path}",
    }[request.param]


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ])
def test_libzmq_s_sockets_are_answered(kind: int, address: str) -> None:
    """Short and long frames, one after the other, come back as they went, heartbeats between them."""
    with echo(address), zmq.Context() as context, context.socket(kind) as client:
        client.linger = 0
        client.setsockopt(zmq.HEARTBEAT_IVL, 20)
        client.setsockopt(zmq.HEARTBEAT_TIMEOUT, 500)
        client.setsockopt(zmq.RCVTIMEO, 5000)
        client.connect(address)
        for size in SIZES:
            sent = [b"a", bytes(size), b"z" * 300]
            client.send_multipart(sent)
            assert client.recv_multipart() == sent
            time.sleep(0.03)


class Heard:
    """Stands for an asker: keeps what a connection gives it."""

    def __init__(self) -> None:
        self.messages: list[list[bytes]] = []
        self.events: list[int] = []

    def on_message(self, frames: list[Any]) -> None:
        self.messages.append([bytes(frame) for frame in frames])

    def on_event(self, event: int) -> None:
        self.events.append(event)

    def has(self, event: int, count: int) -> bool:
        return self.events.count(event) == count


def until(connection: PlainConnection, heard: Any, done: Any) -> None:
    """Wait until something is done, for ten seconds at most."""
    end_s = time.monotonic() + 10
    while not done() and time.monotonic() < end_s:
        connection.wait(heard, 0.05)
    assert done()


def test_a_connection_speaks_with_libzmq_s_router(tmp_path: Path) -> None:
    """It opens when the router comes, carries messages both ways, tells its end, and opens again."""
    address, heard = f"ipc://{tmp_path}/s", Heard()
    connection = PlainConnection(address)
    assert not connection.send([b"nobody is there"])
    for count in (1, 2):
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.linger = 0
            router.bind(address)
            until(connection, heard, partial(heard.has, zmq.EVENT_HANDSHAKE_SUCCEEDED, count))
            sent = [b"a", bytes(300_000), b""]
            assert connection.send(sent)
            while not router.poll(10):
                connection.wait(heard, 0.01)
            name, *frames = router.recv_multipart()
            assert frames == sent
            router.send_multipart([name, *sent])
            until(connection, heard, lambda sent=sent: sent in heard.messages)
            heard.messages.clear()
        until(connection, heard, partial(heard.has, zmq.EVENT_DISCONNECTED, count))
    connection.close()
    assert not connection.send([b"closed"])


def test_a_client_that_says_nothing_has_to_go(address: str, monkeypatch: Any) -> None:
    """One that connects and sends half a greeting is cut off; one that is silent as well."""
    monkeypatch.setattr("adaphi.controller.local.HANDSHAKE_S", 0.1)
    family, where = address_of(address)
    with echo(address), socket.socket(family) as half, socket.socket(family) as mute:
        for one in (half, mute):
            one.settimeout(5)
            one.connect(where)
        half.sendall(zmtp.greeting()[:30])
        for one in (half, mute):
            seen = b""
            while data := one.recv(1000):
                seen += data
            assert seen == zmtp.greeting()


def test_a_message_that_stops_on_its_way_has_to_go(tmp_path: Path, monkeypatch: Any) -> None:
    """Whether in a frame's head, in a long frame or between two; one who sends on, or nothing, stays."""
    monkeypatch.setattr(local, "STALLED_S", 0.1)
    long = on_wire([bytes(200_000)])
    stops = [long[:5], long[:-1], zmtp.encode([b"first", b"more"])[0][:7]]

    async def main() -> None:
        heard: list[Any] = []
        router = LocalRouter(
            f"ipc://{tmp_path}/s", LIMIT_BYTES, lambda _, frames: heard.append(frames)
        )
        pairs = [await asyncio.open_unix_connection(f"{tmp_path}/s") for _ in range(5)]
        (*halted, slow, idle) = pairs
        for _, writer in pairs:
            writer.write(zmtp.greeting() + zmtp.ready(b"DEALER"))
        for (_, writer), bytes_ in zip(halted, stops, strict=True):
            writer.write(bytes_)
        for k in range(20):
            slow[1].write(long[k * 10_000 : (k + 1) * 10_000])
            await asyncio.sleep(0.03)
        slow[1].write(long[200_000:])
        async with asyncio.timeout(5):
            for reader, _ in halted:
                with suppress(ConnectionError):
                    await reader.read()  # to its end
            while not heard:
                await asyncio.sleep(0.01)
            for _, writer in (slow, idle):
                writer.write(on_wire([b"still here"]))
            while len(heard) < 3:
                await asyncio.sleep(0.01)
        for _, writer in pairs:
            writer.close()
        router.close()

    asyncio.run(main())


def test_one_who_floods_leaves_others_their_turn(tmp_path: Path) -> None:
    """Thousands of messages that come at once are handled a few at a time; none is lost or overtaken."""
    seen: list[int] = []
    turns: list[int] = []

    async def main() -> None:
        def take(_: Any, frames: list[bytes]) -> None:
            seen.append(int(frames[0]))

        router = LocalRouter(f"ipc://{tmp_path}/s", LIMIT_BYTES, take)
        _, writer = await asyncio.open_unix_connection(f"{tmp_path}/s")
        flood = b"".join(on_wire([b"%d" % k]) for k in range(5000))
        writer.write(zmtp.greeting() + zmtp.ready(b"DEALER") + flood)
        async with asyncio.timeout(10):
            while len(seen) < 5000:
                before = len(seen)
                await asyncio.sleep(0)
                turns.append(len(seen) - before)
        writer.close()
        router.close()

    asyncio.run(main())
    assert seen == list(range(5000)) and max(turns) <= 2 * BURST


def test_one_who_asks_whether_anybody_is_here_and_never_listens(tmp_path: Path) -> None:
    """What waits for it to read is bounded: pongs, too."""

    async def main() -> None:
        router = LocalRouter(f"ipc://{tmp_path}/s", LIMIT_BYTES, lambda *_: None)
        with socket.socket(socket.AF_UNIX) as mute:
            mute.setblocking(False)
            mute.connect(f"{tmp_path}/s")
            await asyncio.sleep(0.05)
            ping = b"\x04\x17\x04PING\x00\x14" + bytes(16)
            mute.send(zmtp.greeting() + zmtp.ready(b"DEALER"))
            left = b""
            for _ in range(500):
                left = left or ping * 1000
                with suppress(BlockingIOError):
                    left = left[mute.send(left) :]
                await asyncio.sleep(0)
            [peer] = router._peers
            assert peer._stream._unsent_bytes < 100_000
        router.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "address", ["", "tcp://", "tcp://h:x", "tcp://h:99999", "ipc://", "udp://h:1", "tcp://h:*"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(OSError, match="expected ipc://"):
        address_of(address)
