"""One client in a process of its own: asks as fast as it is answered, and tells every latency.

    python -m benchmarks.clients KIND ADDRESS WHAT

`KIND` is adaphi (the library's own client), zmtp (its messages over a bare socket, as the peers are asked),
oip, zmq, http, plain (bytes and nothing else), or bare (no server: the handler is called).
It says "ready" once it was answered a few times, then answers each number of seconds on its standard input
with a line of JSON.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, count

import msgspec
import numpy as np
import zmq

from adaphi.controller import protocol
from adaphi.controller.client import Client
from adaphi.controller.protocol import InferHeader
from adaphi.model_zoo.allocator import tune_allocator

from . import zmtp
from .servers import PICTURES, handler_of

DEADLINE_MS = 10_000.0
WARM_UP = 10
FIRST_ID = 1 << 24
"""From here on the number of a request has five bytes in its message."""

Ask = Callable[[], float]
"""Sends one request and returns the milliseconds that its handler took."""


@dataclass
class Told:
    """What one or more clients saw in the same seconds: latencies and overheads (ms), answers a second."""

    latency_ms: np.ndarray
    overhead_ms: np.ndarray
    rate: float

    def quantile_ms(self, q: float) -> float:
        """Return a quantile of the latency."""
        return float(np.quantile(self.latency_ms, q))


class Crowd:
    """So many client processes that start and stop together."""

    def __init__(self, count: int, kind: str, address: str, what: str) -> None:
        command = [sys.executable, "-m", "benchmarks.clients", kind, address, what]
        pipe = subprocess.PIPE
        self._all = [
            subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(count)
        ]
        for client in self._all:
            if self._read(client) != "ready\n":
                self.close()
                raise RuntimeError(f"a client of {kind} at {address} did not get answers")

    def ask(self, seconds: float) -> Told:
        """Let all ask for so long."""
        for client in self._all:
            assert client.stdin is not None
            client.stdin.write(f"{seconds}\n")
            client.stdin.flush()
        pairs = [json.loads(self._read(client)) for client in self._all]
        latency, handler = np.concatenate([np.array(pair).T for pair in pairs]).T
        # Each asks without a pause; not by `seconds`, which a long answer passes by much.
        rate = sum(1e3 / np.mean(latencies) for latencies, _ in pairs)
        return Told(latency, latency - handler, float(rate))

    def close(self) -> None:
        """End the clients."""
        for client in self._all:
            client.kill()
            client.communicate()

    @staticmethod
    def _read(client: subprocess.Popen[str]) -> str:
        assert client.stdout is not None
        return client.stdout.readline()


def adaphi(address: str, what: str) -> Ask:
    """Ask a daemon over ZeroMQ, with the library's own client; the smallest variant answers."""
    client, picture = Client(address), PICTURES[what]

    def ask() -> float:
        return client.infer(picture, deadline_ms=DEADLINE_MS, phi=0).inference_ms

    return ask


def bare_zmtp(address: str, what: str) -> Ask:
    """Ask a daemon as its peers are asked: a message formed beforehand, over a socket and nothing else.

    Each has an identity of its own, so the daemon does no less than for the library's client.
    """
    connection, picture = _connected(address.removeprefix("tcp://")), PICTURES[what]
    connection.sendall(zmtp.GREETING)
    _read(connection, len(zmtp.GREETING))
    connection.sendall(zmtp.READY)
    _read(connection, _read(connection, 2)[1])
    session = uuid.uuid4().hex
    header = InferHeader(
        FIRST_ID, "uint8", picture.shape, deadline_ms=DEADLINE_MS, phi=0, session=session
    )
    frames = protocol.encode(protocol.INFER, header, picture)
    message = bytearray(zmtp.message([bytes(frame) for frame in frames]))
    place, ids = message.index(FIRST_ID.to_bytes(4, "big")), count(FIRST_ID)

    def ask() -> float:
        struct.pack_into(">I", message, place, next(ids))
        connection.sendall(message)
        seen = connection.recv(65536)
        while (header := zmtp.answer_header(seen)) is None:
            seen += (read := connection.recv(65536))
            if not read:
                raise ConnectionError(f"{address} closed the connection")
        return float(msgspec.msgpack.decode(header)["inference_ms"])

    return ask


def raw_zmq(address: str, what: str) -> Ask:
    """Ask over a bare REQ socket."""
    request = zmq.Context.instance().socket(zmq.REQ)
    request.connect(address)
    picture = PICTURES[what].reshape(-1).data

    def ask() -> float:
        request.send(picture, copy=picture.nbytes < 65536)
        took, _ = request.recv_multipart(copy=False)
        return float(np.frombuffer(took.buffer)[0])

    return ask


def plain(address: str, what: str) -> Ask:
    """Ask over a bare socket: the picture's bytes, answered with a length (4 bytes) and the answer."""
    connection, picture = _connected(address), PICTURES[what].reshape(-1).data

    def ask() -> float:
        connection.sendall(picture)
        seen = connection.recv(65536)
        while len(seen) < 4 or len(seen) < 4 + int.from_bytes(seen[:4], "little"):
            seen += (read := connection.recv(65536))
            if not read:
                raise ConnectionError(f"{address} closed the connection")
        return float(np.frombuffer(seen[4:12])[0])

    return ask


def http(address: str, what: str) -> Ask:
    """Ask one of the peers over HTTP: the bytes of the picture are the body."""
    body = PICTURES[what].tobytes()

    def handler_ms(_: bytes, answer: bytes) -> float:
        return float(np.frombuffer(answer[:8])[0])

    return _ask_http(address, "/inference", {}, body, handler_ms)


def oip(address: str, what: str) -> Ask:
    """Ask a daemon over the Open Inference Protocol, the tensor in binary both ways."""
    picture = PICTURES[what]
    tensor = {"name": "image", "shape": picture.shape, "datatype": "UINT8"}
    tensor["parameters"] = {"binary_data_size": picture.nbytes}
    parameters = {"deadline_ms": DEADLINE_MS, "binary_data_output": True}
    head = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    path = f"/v2/models/{'echo' if what != 'model' else 'tf_efficientnet_lite0'}/infer"

    def handler_ms(headers: bytes, answer: bytes) -> float:
        length = headers.lower().partition(b"inference-header-content-length: ")[2]
        head = json.loads(answer[: int(length.partition(b"\r")[0])])
        return float(head["parameters"]["inference_ms"])

    lengths = {"Inference-Header-Content-Length": len(head)}
    return _ask_http(address, path, lengths, head + picture.tobytes(), handler_ms)


def bare(_: str, what: str) -> Ask:
    """Call the handler: no server at all."""
    handler, picture = handler_of(what), PICTURES[what]

    def ask() -> float:
        began = time.perf_counter()
        handler(picture)
        return (time.perf_counter() - began) * 1e3

    return ask


def _ask_http(
    address: str,
    path: str,
    headers: dict[str, int],
    body: bytes,
    handler_ms: Callable[[bytes, bytes], float],
) -> Ask:
    """Return an `Ask` over a connection that is kept: a socket and nothing else, alike for every server."""
    connection = _connected(address)
    fields = {"Host": address, "Content-Length": len(body), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    head = f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode()

    def ask() -> float:
        connection.sendall(head)
        connection.sendall(body)
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += (read := connection.recv(65536))
            if not read:
                raise ConnectionError(f"{address} closed the connection")
        said, _, answer = seen.partition(b"\r\n\r\n")
        if b" 200 " not in said[:20]:
            raise ConnectionError(f"{address} answered {said[:60]!r} {answer[:200]!r}")
        length = int(said.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r")[0])
        while len(answer) < length:
            answer += connection.recv(65536)
        return handler_ms(said, answer)

    return ask


def _read(connection: socket.socket, size: int) -> bytes:
    read = connection.recv(size, socket.MSG_WAITALL)
    if len(read) < size:
        raise ConnectionError("the connection was closed in the handshake")
    return read


def _connected(address: str) -> socket.socket:
    host, _, port = address.partition(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


KINDS = {
    "adaphi": adaphi,
    "zmtp": bare_zmtp,
    "oip": oip,
    "zmq": raw_zmq,
    "http": http,
    "plain": plain,
    "bare": bare,
}


def main(kind: str, address: str, what: str) -> None:
    """Be a client."""
    tune_allocator()
    for seconds in chain([0.0], map(float, iter(sys.stdin.readline, ""))):
        ask = KINDS[kind](
            address, what
        )  # anew: servers close connections on which nothing is asked
        for _ in range(WARM_UP):
            ask()
        latency_ms, handler_ms = [], []
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            handler_ms.append(ask())
            latency_ms.append((time.perf_counter() - began) * 1e3)
        print(json.dumps([latency_ms, handler_ms]) if seconds else "ready", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
